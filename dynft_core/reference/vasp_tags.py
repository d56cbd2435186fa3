"""INCAR tags of VASP that change forces: whether two runs had the same, however they are written.

Compared is every tag that one of them names, and every one whose default is known here, but those that change no force.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dynft_core.reference.dft_code import Difference
from dynft_core.reference.vasp_run import EDIFF_EV, VaspRun

NO_FORCES = frozenset(  # of cores and files; of the electronic cycle and its start; of ions, symmetry and response
    """
    NPAR NCORE KPAR NSIM LPLANE LSCALAPACK LSCALU LSCAAWARE LELPA NBLK LASYNC NCSHMEM LUSENCCL LORBITALREAL MAXMEM
    SYSTEM NWRITE LWAVE LCHARG LVTOT LVHAR LELF LAECHG LORBIT NEDOS EMIN EMAX EFERMI LPARD LOPTICS LDOWNSAMPLE LCHARGH5
    LWAVEH5 LH5 LBANDOS LDAUPRINT ICORELEVEL STM IDIOT KPOINTS_OPT_MODE LKPOINTS_OPT RWIGS MAGATOM LVACPOTAV
    ISTART ICHARG INIWAV LREUSE MAGMOM ALGO IALGO NELM NELMDL NELMIN AMIX BMIX AMIN AMIX_MAG BMIX_MAG IMIX MIXPRE MAXMIX
    WC INIMIX MREMOVE MIXFIRST TIME WEIMIN EBREAK DEPER NRMM LDIAG LSUBROT LROBUST ISEARCH MAXDIS IWAVPR TURBO IRESTART
    NREBOOT NMIN ENINI LMAXMIX LAMIX NBANDS NBANDSLOW NBANDSHIGH EREF KBLOWUP
    NSW IBRION ISIF POTIM EDIFFG TEBEG TEEND SMASS MDALGO NBLOCK KBLOCK NPACO APACO POMASS PSTRESS NFREE SCALEE DARWINR
    DARWINV PHON_NSTRUCT LANGEVIN_GAMMA LANGEVIN_GAMMA_L PMASS ANDERSEN_PROB NHC_NCHAINS NHC_PERIOD NHC_NRESPA NHC_NS
    RANDOM_SEED IMAGES SPRING LCLIMB ICHAIN IOPT MAXMOVE ISYM SYMPREC LEPSILON LPEAD LCALCEPS LCALCPOL LRPA LNABLA
    CSHIFT KPOINT_BSE SAXIS LMUSIC
    """.split()  # noqa: SIM905 - one tag a line would be a hundred and fifty lines
)
"""Tags that change no force."""

DEFAULTS = {
    "PREC": "Normal", "ISMEAR": "1", "SIGMA": "0.2", "ISPIN": "1", "NUPDOWN": "-1", "LREAL": "F", "ADDGRID": "F",
    "LASPH": "F", "LNONCOLLINEAR": "F", "LSORBIT": "F", "LSPIRAL": "F", "I_CONSTRAINED_M": "0", "LMAXPAW": "-100",
    "LCORR": "T", "LDIPOL": "F", "LMONO": "F", "IDIPOL": "0", "EFIELD": "0", "EPSILON": "1", "LDAU": "F", "IVDW": "0",
    "LUSE_VDW": "F", "LVDW": "F", "METAGGA": "--", "LMETAGGA": "F", "LHFCALC": "F", "LHFONE": "F", "LRHFCALC": "F",
    "LTHOMAS": "F", "LMODELHF": "F", "GGA_COMPAT": "T", "LCOMPAT": "F", "LSOL": "F",
}  # fmt: skip
"""VASP's own, of tags that change forces."""

HYBRID = {"AEXX": "0.25", "HFSCREEN": "0", "NKREDX": "1", "NKREDY": "1", "NKREDZ": "1"}
"""VASP's own, where LHFCALC is set."""

OTHERWISE = frozenset(
    ["GGA", "METAGGA", "LMETAGGA", "EDIFF", "ENCUT", "ENMAX", "NELECT", "KSPACING", "KGAMMA", "LDAUL", "LDAUU", "LDAUJ",
     "LDAUTYPE", "AEXX", "HFSCREEN", "NKREDX", "NKREDY", "NKREDZ", "DIPOL", "QSPIRAL"]
)  # fmt: skip
"""Compared by what they mean, or where they count."""

ACCURACY = frozenset({"LREAL", "ADDGRID", "LASPH"})
"""Of dynft's presets: where the campaign file does not have them, other values are named and taken."""
FINE_EDIFF_EV = 1e-6
"""The same for EDIFF, up to here."""

PP_FUNCTIONAL = {"PAW_PBE": "PE", "PAW_GGA": "91", "PAW": "CA", "US": "CA"}
"""The functional of a POTCAR, which is VASP's where INCAR has no GGA; by how its title begins."""


def tag_differences(
    run: VaspRun, ours: Mapping[str, str], given: frozenset[str] | None = None, family: str = ""
) -> list[Difference]:
    """How the tags of a run differ from those of an INCAR.

    Args:
        run: what VASP wrote; ours: tags and values of the INCAR.
        given: names in lower case that its author chose, the others being presets; None: all.
        family: how the titles of its POTCARs begin, which have a functional; '': as those of the run.
    """
    chosen = frozenset(tag.lower() for tag in ours) if given is None else given
    compared = (_of_tags(run, ours, chosen), _of_cutoff(run, ours), _of_ediff(run, ours, chosen),
                _of_functional(run, ours, family), _of_hubbard(run, ours))  # fmt: skip
    return [difference for some in compared for difference in some]


def read_incar(text: str) -> dict[str, str]:
    """Tags and values of an INCAR."""
    pairs = [part.partition("=") for line in text.splitlines() for part in re.split(r"[#!]", line)[0].split(";")]
    return {tag.strip().upper(): value.strip() for tag, equals, value in pairs if equals}


def canonical(tag: str, value: str) -> Any:
    """A value as it is compared: numbers, True and False, else a word; of PREC and LREAL the first letter."""
    words = value.upper().split()
    if tag in ("PREC", "LREAL") and words:
        return words[0].strip(".")[:1]
    if len(words) == 1 and words[0] in ("T", ".TRUE.", ".T.", "TRUE", "F", ".FALSE.", ".F.", "FALSE"):
        return words[0].strip(".")[0] == "T"
    try:
        return tuple(round(float(word), 8) for word in words)
    except ValueError:
        return " ".join(words)


def _differ(tag: str, theirs: str, ours: str) -> bool:
    there, here = canonical(tag, theirs), canonical(tag, ours)
    if isinstance(there, tuple) and isinstance(here, tuple) and len(there) == len(here):
        return not np.allclose(there, here, rtol=1e-6, atol=1e-8)
    return bool(there != here)


def _shown(value: str) -> str:
    """A value as it is printed: T and F, numbers without zeros at their end."""
    found = canonical("", value)
    if isinstance(found, bool):
        return "T" if found else "F"
    return " ".join(f"{x:g}" for x in found) if isinstance(found, tuple) else value


def _of_tags(run: VaspRun, ours: Mapping[str, str], given: frozenset[str]) -> Iterator[Difference]:
    told = run.parameters.keys() & DEFAULTS.keys()
    known = told if run.incar is None else {*told, *run.incar, *ours}
    for tag in sorted(known - NO_FORCES - OTHERWISE):
        if tag.startswith("ML_"):
            continue
        default = DEFAULTS.get(tag, "not set")
        here = ours.get(tag, default)
        for there in _values(run, tag) or [default]:
            if _differ(tag, there, here):
                yield Difference(tag.lower(), _shown(there), _shown(here), tag in ACCURACY and tag.lower() not in given)
                break


def _values(run: VaspRun, tag: str) -> list[str]:
    """What INCAR has; and what VASP made of it, where it means the same: LREAL = A becomes T, ROPT is scaled."""
    given, completed = (run.incar or {}).get(tag), run.parameters.get(tag)
    if given is not None and (tag not in DEFAULTS or tag == "LREAL"):
        return [given]
    return [value for value in (given, completed) if value is not None]


def _of_cutoff(run: VaspRun, ours: Mapping[str, str]) -> Iterator[Difference]:
    there = run.tags.get("ENCUT", run.tags.get("ENMAX"))
    if there is not None and "ENCUT" in ours and _differ("ENCUT", there, ours["ENCUT"]):
        yield Difference("encut", f"{float(there):g} eV", f"{float(ours['ENCUT']):g} eV")


def _of_ediff(run: VaspRun, ours: Mapping[str, str], given: frozenset[str]) -> Iterator[Difference]:
    there, here = (float(tags.get("EDIFF", EDIFF_EV)) for tags in (run.tags, ours))
    if there > here * (1 + 1e-6):
        preset = "ediff" not in given and there <= FINE_EDIFF_EV
        yield Difference("ediff", f"{there:g} eV", f"{here:g} eV", preset)


def _of_functional(run: VaspRun, ours: Mapping[str, str], family: str) -> Iterator[Difference]:
    meta = [_meta(tags.get("METAGGA", "")) for tags in (run.tags, ours)]
    if meta[0] != meta[1]:
        yield Difference("metagga", meta[0] or "none", meta[1] or "none")
    there = _gga(run.tags.get("GGA", "")) or PP_FUNCTIONAL.get(run.potcar_family, "")
    here = _gga(ours.get("GGA", "")) or PP_FUNCTIONAL.get(family or run.potcar_family, "")
    if not any(meta) and there and here and there != here:
        yield Difference("gga", there, here)
    hybrid = [canonical("LHFCALC", tags.get("LHFCALC", "F")) for tags in (run.tags, ours)]
    for tag, default in HYBRID.items() if all(hybrid) else ():
        if _differ(tag, run.tags.get(tag, default), ours.get(tag, default)):
            yield Difference(tag.lower(), _shown(run.tags.get(tag, default)), _shown(ours.get(tag, default)))
    if hybrid[0] != hybrid[1]:
        there, here = _shown(run.tags.get("AEXX", "0.25")), _shown(ours.get("AEXX", "0.25"))
        yield Difference("aexx", there if hybrid[0] else "0", here if hybrid[1] else "0")


def _meta(value: str) -> str:
    word = value.strip().strip("-").upper()
    return "" if word in ("NONE", "F") else word


def _gga(value: str) -> str:
    return {"PB": "PB", "LDA": "CA", "CA": "CA"}.get(word := value.strip().strip("-").upper(), word)


def _of_hubbard(run: VaspRun, ours: Mapping[str, str]) -> Iterator[Difference]:
    if canonical("LDAU", run.tags.get("LDAU", "F")) is True and canonical("LDAU", ours.get("LDAU", "F")) is True:
        there, here = _hubbard(run.tags), _hubbard(ours)
        if there != here:
            yield Difference("ldauu", there, here)


def _hubbard(tags: Mapping[str, str]) -> str:
    """'l = 2: U 4, J 0 eV' of each species that has one, whatever their order; by Dudarev (type 2) U - J alone."""
    lists = [[float(x) for x in tags.get(tag, "").split()] for tag in ("LDAUL", "LDAUU", "LDAUJ")]
    rows = sorted({(int(a), u, j) for a, u, j in zip(*lists, strict=False) if a >= 0 and (u or j)})
    if int(tags.get("LDAUTYPE", "2")) == 2:
        return ", ".join(sorted({f"l = {a}: U - J {u - j:g} eV" for a, u, j in rows if u != j})) or "none"
    return ", ".join(f"l = {a}: U {u:g}, J {j:g} eV" for a, u, j in rows) or "none"

"""Moment tensor potentials as MLIP keeps them: `.mtp` files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions
from dynft_core.models.moment_tensor.potential import Basis, MomentTensorPotential
from dynft_core.models.moment_tensor.products import Products
from dynft_core.storage.files import replacing

Floats = NDArray[np.float64]
_BEGIN = "MTP\nversion = 1.1.0\n"
_RADIAL_TYPE = "RBChebyshev"
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def read_mtp(path: Path, species: Sequence[int] | None = None) -> MomentTensorPotential:
    """The potential in an .mtp file (or in front of an active set, .als or .almtp).

    Args:
        path: the file.
        species: atomic numbers of its species in turn; None: 1, 2, …, for files that only number them.

    Raises:
        FileFormatError: missing, no .mtp of version 1.1.0 with Chebyshev polynomials, not trained, or with numbers
            missing.
        InputError: another number of species than given.
    """
    values = _Fields(path)
    basis = _basis(values, species, values.scaled_radial())
    weights = values.numbers("moment_coeffs", basis.n_functions)
    energies = values.numbers("species_coeffs", len(basis.species))
    return MomentTensorPotential(basis, energies, np.tile(weights, (len(basis.species), 1)))


def read_basis(path: Path, species: Sequence[int] | None = None) -> Basis:
    """The functions of an .mtp file, trained or not: without radial coefficients they are the first polynomials.

    A file of one species that is not trained serves any number of them. Arguments and errors as `read_mtp`.
    """
    values = _Fields(path)
    if values.has_radial:
        return _basis(values, species, values.scaled_radial())
    n_species = len(species) if species is not None else values.integer("species_count")
    size, n_radial = values.integer("radial_basis_size"), values.integer("radial_funcs_count")
    first = np.broadcast_to(np.eye(n_radial, size), (n_species, n_species, n_radial, size)).copy()
    return _basis(values, species, first)


def _basis(values: _Fields, species: Sequence[int] | None, radial: Floats) -> Basis:
    """The functions with these radial coefficients (S, S, R, Q)."""
    n_species, n_radial = radial.shape[1:3]
    if species is not None and len(species) != n_species:
        raise values.bad(f"{len(species)} species", str(n_species), "name those of the file in turn")
    basic = values.integers("alpha_index_basic", values.integer("alpha_index_basic_count"), 4)
    times = values.integers("alpha_index_times", values.integer("alpha_index_times_count"), 4)
    functions = values.integers("alpha_moment_mapping", values.integer("alpha_scalar_moments"), 1)[:, 0]
    n_values = values.integer("alpha_moments_count")
    values.check_numbers("alpha_index_basic", basic[:, 0], n_radial)
    values.check_numbers("alpha_index_times", times[:, [0, 1, 3]], n_values)
    values.check_numbers("alpha_moment_mapping", functions, n_values)
    products = Products(
        basic, np.ascontiguousarray(times[:, [0, 1, 3]]), times[:, 2].astype(np.float64),
        np.ascontiguousarray(functions),
    )  # fmt: skip
    functions_of_r = RadialFunctions(values.number("min_dist"), values.number("max_dist"), radial)
    return Basis(tuple(species or range(1, n_species + 1)), functions_of_r, products)


class _Fields:
    """The `name = value` lines of an .mtp file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            text = path.read_bytes().decode("latin-1").replace("\r\n", "\n")
        except OSError as error:
            raise FileFormatError(str(path), "an .mtp file", error.strerror or str(error), "check the path") from error
        if not text.startswith("MTP\n"):
            raise FileFormatError(str(path), "an .mtp file, which begins with MTP", "another file", "check the path")
        self._text = text
        self._values: dict[str, str] = dict(re.findall(r"^[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
        for name, known in (("version", "1.1.0"), ("radial_basis_type", _RADIAL_TYPE)):
            if self._value(name) != known:
                raise self.bad(f"{name} = {known}", self._value(name), "convert it with the program that wrote it")

    def bad(self, expected: str, got: str, remedy: str = "restore the file") -> FileFormatError:
        """The error to raise."""
        return FileFormatError(str(self._path), expected, got, remedy)

    def _value(self, name: str) -> str:
        if name not in self._values:
            untrained = name in ("moment_coeffs", "species_coeffs")
            raise self.bad(f"a line '{name} = …'", "none", "train the potential first" if untrained else "check it")
        return self._values[name]

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        if default is not None and name not in self._values:
            return default
        return float(self.numbers(name, 1)[0])

    def integer(self, name: str) -> int:
        """A count."""
        return int(self.number(name))

    def numbers(self, name: str, count: int) -> Floats:
        """So many numbers in one line."""
        found = _NUMBER.findall(self._value(name))
        if len(found) != count:
            raise self.bad(f"{count} numbers in {name}", str(len(found)))
        return np.array([float(x) for x in found])

    def integers(self, name: str, rows: int, columns: int) -> NDArray[np.int32]:
        """A table (rows, columns) in one line."""
        return self.numbers(name, rows * columns).astype(np.int32).reshape(rows, columns)

    def check_numbers(self, name: str, found: NDArray[np.int32], count: int) -> None:
        """Refuse numbers that nothing has."""
        if found.size and not (found.min() >= 0 and found.max() < count):
            raise self.bad(f"numbers from 0 to {count - 1} in {name}", f"{found.min()} to {found.max()}")

    @property
    def has_radial(self) -> bool:
        """Whether it is trained."""
        return "radial_coeffs" in self._text

    def scaled_radial(self) -> Floats:
        """(S, S, R, Q) coefficients of the radial functions, times `scaling`."""
        n_species, n_functions = self.integer("species_count"), self.integer("radial_funcs_count")
        size = self.integer("radial_basis_size")
        found = np.full((n_species, n_species, n_functions, size), np.nan)
        block = self._text.partition("radial_coeffs")[2].partition("alpha_moments_count")[0]
        for first, second, body in re.findall(r"(\d+)-(\d+)\s*\n((?:\s*\{[^{}]*\}[ \t]*\n)+)", block):
            numbers = [float(x) for x in _NUMBER.findall(body)]
            pair = f"radial_coeffs {first}-{second}"
            if len(numbers) != n_functions * size:
                raise self.bad(f"{n_functions} × {size} numbers in {pair}", str(len(numbers)))
            if max(int(first), int(second)) >= n_species:
                raise self.bad(f"pairs of {n_species} species", pair)
            found[int(first), int(second)] = np.reshape(numbers, (n_functions, size))
        if np.isnan(found).any():
            raise self.bad(f"radial_coeffs of all {n_species} × {n_species} pairs", "some missing", "train it first")
        return self.number("scaling", 1.0) * found


def write_mtp(potential: MomentTensorPotential, path: Path) -> None:
    """Write a potential as an .mtp file of version 1.1.0, which MLIP, motep and LAMMPS read.

    Where the weights differ between species of central atoms, which the format does not know, each species gets radial
    functions of its own that are zero about other atoms.

    Raises:
        OSError: the folder is not writable or the disk is full.
    """
    if (potential.weights != potential.weights[0]).any():
        potential = _with_common_weights(potential)
    basis = potential.basis
    radial, products = basis.radial, basis.products
    times = np.column_stack([products.factors[:, :2], products.coefficients.astype(np.int64), products.factors[:, 2]])
    pairs = [(a, b) for a in range(len(basis.species)) for b in range(len(basis.species))]
    lines = [
        f"{_BEGIN}potential_name = MTP1m", f"scaling = {1.0:.15e}", f"species_count = {len(basis.species)}",
        "potential_tag = ", f"radial_basis_type = {_RADIAL_TYPE}",
        f"\tmin_dist = {radial.min_distance_A:.15e}", f"\tmax_dist = {radial.cutoff_A:.15e}",
        f"\tradial_basis_size = {radial.coefficients.shape[3]}",
        f"\tradial_funcs_count = {radial.coefficients.shape[2]}", "\tradial_coeffs",
        *(f"\t\t{a}-{b}\n" + "\n".join(f"\t\t\t{_row(x)}" for x in radial.coefficients[a, b]) for a, b in pairs),
        f"alpha_moments_count = {products.n_values}", f"alpha_index_basic_count = {len(products.basic)}",
        f"alpha_index_basic = {_table(products.basic)}", f"alpha_index_times_count = {len(times)}",
        f"alpha_index_times = {_table(times)}", f"alpha_scalar_moments = {len(products.functions)}",
        f"alpha_moment_mapping = {{{', '.join(map(str, products.functions))}}}",
        f"species_coeffs = {_row(potential.species_energies)}", f"moment_coeffs = {_row(potential.weights[0])}",
    ]  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="ascii")


def _row(values: Floats) -> str:
    return "{" + ", ".join(f"{x:.15e}" for x in values) + "}"


def _table(rows: NDArray[np.integer]) -> str:
    return "{" + ", ".join("{" + ", ".join(map(str, row)) + "}" for row in rows.tolist()) + "}"


def _with_common_weights(potential: MomentTensorPotential) -> MomentTensorPotential:
    """The same potential with functions for each species of central atoms: those of others are zero there."""
    basis, n_species = potential.basis, len(potential.weights)
    products, coefficients = basis.products, basis.radial.coefficients
    n_basic, n_values, n_radial = len(products.basic), products.n_values, coefficients.shape[2]
    own = np.zeros((n_species, n_species, n_species, *coefficients.shape[2:]))
    own[range(n_species), :, range(n_species)] = coefficients
    radial = RadialFunctions(
        basis.radial.min_distance_A, basis.radial.cutoff_A,
        own.reshape(n_species, n_species, n_species * n_radial, coefficients.shape[3]),
    )  # fmt: skip
    basic = np.concatenate([products.basic + np.array([s * n_radial, 0, 0, 0]) for s in range(n_species)])

    def of(values: NDArray[np.integer], s: int) -> NDArray[np.integer]:
        """Numbers of values of species s: all basic moments come first."""
        further = n_species * n_basic + s * (n_values - n_basic) + values - n_basic
        return np.where(values < n_basic, s * n_basic + values, further)

    every = range(n_species)
    made = Products(
        basic.astype(np.int32), np.concatenate([of(products.factors, s) for s in every]).astype(np.int32),
        np.tile(products.coefficients, n_species),
        np.concatenate([of(products.functions, s) for s in every]).astype(np.int32),
    )  # fmt: skip
    weights = np.tile(potential.weights.ravel(), (n_species, 1))
    return MomentTensorPotential(Basis(basis.species, radial, made), potential.species_energies, weights)

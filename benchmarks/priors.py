"""How many labels each prior needs: `python -m benchmarks.priors [--crystal tin-selenide] [--labels 2,4,8]`.

Labels are 0.2 ps apart in molecular dynamics with the embedded reference; the test structures follow them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.crystals import silicon, tin_selenide
from dynft_core import fit
from dynft_core.vocabulary import Prior

PRIORS: tuple[Prior, ...] = ("shared", "per_order", "decaying")
CRYSTALS = {"silicon": lambda: silicon(3, {2: 8.0, 3: 5.0, 4: 5.0}), "tin-selenide": tin_selenide}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystal", choices=CRYSTALS, default="silicon")
    parser.add_argument("--labels", default="2,4,8,15,40", help="numbers of labels, separated by commas")
    parser.add_argument("--test", type=int, default=20, help="test structures")
    arguments = parser.parse_args()
    counts = [int(n) for n in arguments.labels.split(",")]
    case = CRYSTALS[arguments.crystal]()
    basis = case.basis()
    cell = case.supercell(basis)
    u, f = case.labels(cell, max(counts) + arguments.test)
    print(f"{case.name}, {cell.n_atoms} atoms, {basis.size} parameters; errors in meV/Å")
    print(f"{'prior':<12s}{'labels':>8s}{'RMSE':>10s}{'predicted':>11s}{'β^(-1/2)':>10s}{'CPU s':>8s}")
    for prior in PRIORS:
        for n in counts:
            begun = time.process_time()
            fitted = fit(basis, cell, u[:n], f[:n], prior=prior)
            took = time.process_time() - begun
            rmse = np.sqrt(np.mean((fitted.forces(u[max(counts) :]) - f[max(counts) :]) ** 2))
            bayesian = fitted.bayesian_error(u[max(counts) :])
            fitting = fitted.posterior.beta_inv_sqrt
            predicted = np.sqrt(fitting**2 + np.mean(bayesian**2))
            numbers = f"{1e3 * rmse:10.3f}{1e3 * predicted:11.3f}{1e3 * fitting:10.3f}{took:8.1f}"
            print(f"{prior:<12s}{n:8d}{numbers}", flush=True)


if __name__ == "__main__":
    main()

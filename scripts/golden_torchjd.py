"""Writes tests/golden/torchjd.json: what the aggregators of TorchJD give, where they define the same method.

    venv/bin/pip install -r scripts/golden_requirements.txt && venv/bin/python scripts/golden_torchjd.py      # --check: compares, writes nothing

Tolerances are those of TorchJD's solvers: it regularises the cone projections (reg_eps, here 1e-10 beside the default 1e-4), solves CAGrad by CLARABEL,
Nash-MTL by 20 linearised problems, FairGrad by trust-region least squares, MGDA by Frank-Wolfe steps. Orders are not shuffled here, and GradDrop's uniform
numbers are written beside its result. Weights stand beside the gradient where the aggregator has some, and where it is not TorchJD's approximation that
decides them.
"""
import argparse
import warnings
from unittest import mock

from golden_methods import File, gradients, krum, write_or_check  # first: it sets the number of threads
import cvxpy
import numpy as np
import torch
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

solve = cvxpy.Problem.solve


def exactly(problem, **options):
    """As ECOS solves, but to 1e-12: with its own 1e-8 two machines differ in the eighth digit."""
    return solve(problem, abstol=1e-12, reltol=1e-12, feastol=1e-12, **options)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare with the file that is there, and write nothing")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # cvxpy about the speed of Nash-MTL's problems
    file = File("Gradient methods by TorchJD 0.17.0; written by scripts/golden_torchjd.py, not by hand.")
    random = np.random.default_rng(20250301)
    kinds = ["normal", "conflicting", "aligned", "sizes"]
    for repetition in range(24):
        tasks = int(random.choice([2, 2, 3, 3, 4, 5, 6, 8]))
        width = tasks + int(random.integers(1, 4))
        kind = kinds[repetition % 4]
        J = gradients(random, tasks, width, kind)
        matrix = torch.tensor(J)
        uniform = [float(f"{u:.6f}") for u in random.uniform(size=width)]

        def add(method, options, aggregator, tolerance, calls=1, weights=True, **keys):
            seen = [None]  # the last weights, of an aggregator that weighs
            if weights and hasattr(aggregator, "weighting"):
                aggregator.weighting.register_forward_hook(lambda module, inputs, output: seen.append(output.numpy()))
            with mock.patch("torch.randperm", torch.arange), mock.patch("torch.rand", lambda *sizes, **kinds: torch.tensor(uniform, dtype=torch.float64)):
                for _ in range(calls):
                    result = aggregator(matrix)
            if calls > 1:
                keys["calls"] = calls
            file.add(method, options, J, (result.numpy(), seen[-1]), tolerance, f"TorchJD 0.17.0, {aggregator}, on {kind} gradients", **keys)

        def cone(reg_eps):
            return QuadprogProjector(norm_eps=1e-4, reg_eps=reg_eps)

        sizes_differ = kind == "sizes"
        ones = torch.ones(tasks, dtype=torch.float64)
        weights = [float(f"{x:.3f}") for x in random.uniform(size=tasks)]
        add("sum", {}, aggregation.Sum(), 1e-11)
        add("mean", {}, aggregation.Mean(), 1e-11)
        add("constant", {"weights": weights}, aggregation.Constant(torch.tensor(weights, dtype=torch.float64)), 1e-11)
        add("pcgrad", {"order": "ascending", "reduction": "sum"}, aggregation.PCGrad(), 1e-11)
        add("gradvac", {"beta": 0.5, "order": "ascending"}, aggregation.GradVac(), 1e-6, calls=3, weights=not sizes_differ)  # its 1e-8 beside the norms
        if not sizes_differ:  # else its 1e-4 decides (cones), or its single precision of the rank (Aligned-MTL)
            add("upgrad", {"preference": "mean"}, aggregation.UPGrad(), 1e-2, weights=False)
            add("dualproj", {"preference": "mean"}, aggregation.DualProj(), 1e-2, weights=False)
            add("upgrad", {"preference": "mean"}, aggregation.UPGrad(projector=cone(1e-10)), 1e-7)
            add("upgrad", {"preference": "sum"}, aggregation.UPGrad(pref_vector=ones, projector=cone(1e-10)), 1e-7)
            add("dualproj", {"preference": "mean"}, aggregation.DualProj(projector=cone(1e-10)), 1e-7)
            add("mgda", {"scale": "one"}, aggregation.MGDA(epsilon=1e-12, max_iters=20000), 1e-3, weights=False)
            c = [0.3, 0.5, 0.8][repetition % 3]
            add("cagrad", {"c": c, "rescale": 0}, aggregation.CAGrad(c=c), 1e-4)
            add("fairgrad", {"alpha": [1.0, 2.0][repetition % 2]}, aggregation.FairGrad(alpha=[1.0, 2.0][repetition % 2]), 1e-7)
            with mock.patch.object(cvxpy.Problem, "solve", exactly):
                add("nash_mtl", {"max_norm": 1.0}, aggregation.NashMTL(n_tasks=tasks), 1e-7)
            add("imtl_g", {}, aggregation.IMTLG(), 1e-9)
            for scale in ("min", "median", "rmse"):
                add("aligned_mtl", {"scale": scale, "preference": "mean"}, aggregation.AlignedMTL(scale_mode=scale), 1e-8)
            add("aligned_mtl", {"scale": "min", "preference": "sum"}, aggregation.AlignedMTL(pref_vector=ones), 1e-8)
            add("cr_mogm", {"decay": 0.5, "initial": [1 / tasks] * tasks}, aggregation.GramianWeightedAggregator(
                aggregation.CRMOGMWeighting(aggregation.AlignedMTLWeighting(), alpha=0.5, initial_weights=ones / tasks)), 1e-8, calls=3,
                inner={"method": "aligned_mtl", "options": {"scale": "min", "preference": "mean"}})
            second, gamma = np.roll(J, 1, axis=0), float(f"{0.3 / np.abs(J @ J.T).max():.3e}")
            modo = aggregation.MoDoWeighting(gamma=gamma, rho=0.1)
            for _ in range(3):
                result = modo(matrix @ torch.tensor(second).T)
            file.add("modo", {"gamma": gamma, "rho": 0.1}, None, (None, result.numpy()), 1e-11, f"TorchJD 0.17.0, {modo}, on two batches of {kind} gradients",
                     jacobians=[J.tolist(), second.tolist()], calls=3)
        add("config", {}, aggregation.ConFIG(), 1e-8, weights=False)  # those that it holds are the preference
        add("graddrop", {}, aggregation.GradDrop(), 1e-11, uniform=uniform)
        add("graddrop", {"leak": 0.2}, aggregation.GradDrop(leak=0.2 * ones), 1e-11, uniform=uniform)
        if tasks >= 3:
            add("trimmed_mean", {"trim": 1}, aggregation.TrimmedMean(trim_number=1), 1e-11)
            selected = krum(J, 0, 2)  # by squared distances, as published; TorchJD adds distances, and mostly selects the same
            if selected and np.array_equal(selected[1], aggregation.KrumWeighting(n_byzantine=0, n_selected=2)(matrix @ matrix.T).numpy()):
                add("krum", {"byzantine": 0, "selected": 2}, aggregation.Krum(n_byzantine=0, n_selected=2), 1e-11)
        add("excess_mtl", {"eta": 0.1, "warmup": 0, "scale": "one"}, aggregation.ExcessMTL(robust_step_size=0.1), 1e-9, calls=3)
        add("excess_mtl", {"eta": 0.1, "warmup": 2, "scale": "one"}, aggregation.ExcessMTL(robust_step_size=0.1, n_warmup_steps=2), 1e-9, calls=4)

    write_or_check(file, "torchjd.json", check)


if __name__ == "__main__":
    main()

"""Writes tests/golden/catalogue.json and tests/golden/random.json: what gradient methods give, computed from their definitions by numpy and scipy in float64.

    python3 -m venv venv && venv/bin/pip install -r scripts/golden_requirements.txt
    venv/bin/python scripts/golden_methods.py            # --check: compares with the files that are there and writes nothing

On one machine it writes the same bytes again. Another processor's linear algebra may round otherwise: --check allows a tenth of each case's tolerance.

Nothing here is taken from the library's C++: methods work on the gradients themselves, as vectors, and convex problems are solved by other algorithms
(non-negative least squares, Newton steps whose optimality is checked). Numbers of the literature stand beside each case of the catalogue and are compared.
"""
import argparse
import json
import os
import pathlib
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported: the same sums in the same order
import numpy as np
from scipy.optimize import minimize, nnls

J2 = np.array([[-4.0, 1, 1], [6, 1, 1]])
J3 = np.array([[1.0, 2, -1, 0], [-2, 1, 0.5, 1], [0.5, -1, 3, -2]])


# ---- convex problems ---------------------------------------------------------------------------------------------------------------------------------------
def least_squares(matrix, target):
    """argmin ‖matrix x − target‖ over x ≥ 0, by Lawson and Hanson, and once more exactly on the support that they find."""
    x, _ = nnls(matrix, target, maxiter=1000)
    support = x > 0
    if support.any():
        x[support] = np.linalg.lstsq(matrix[:, support], target, rcond=None)[0]
    assert (x >= -1e-9 * np.abs(x).max(initial=1)).all()
    return np.maximum(x, 0)


def nearest_point(rows, bounds=None):
    """Weights w ≥ bounds of sum 1 with the smallest ‖Σ w_i rows_i‖: w = x / Σ x of the non-negative least squares Σ x_i rows_i ≈ 0, Σ x_i ≈ 1."""
    tasks = len(rows)
    bounds = np.zeros(tasks) if bounds is None else bounds
    free = 1 - bounds.sum()
    shifted = bounds @ rows + free * rows
    scale = max(np.abs(shifted).max(), 1e-300)
    x = least_squares(np.vstack([shifted.T / scale, np.ones(tasks)]), np.append(np.zeros(rows.shape[1]), 1.0))
    return bounds + free * x / x.sum()


def above(rows, lower):
    """argmin ‖Σ v_i rows_i‖ over v ≥ lower."""
    return lower + least_squares(rows.T, -lower @ rows)


# ---- methods: J [T, P] → (gradient, weights), one of them None where there is no such thing -------------------------------------------------------------------
def weighted(J, w):
    return w @ J, w


def pcgrad(J, order):
    result, used = np.zeros(J.shape[1]), np.eye(len(J))
    for i in range(len(J)):
        g = J[i].copy()
        for j in order(len(J)):
            if j != i and g @ J[j] < 0:
                part = (g @ J[j]) / (J[j] @ J[j])
                g = g - part * J[j]
                used[i, j] -= part
        result += g
    return result, used.sum(0)


def ascending(tasks):
    return range(tasks)


def descending(tasks):
    return range(tasks - 1, -1, -1)


def gradvac(J, order, beta, calls):
    tasks, targets = len(J), np.zeros((len(J), len(J)))
    for _ in range(calls):
        used = np.eye(tasks)
        for i in range(tasks):
            g = J[i].copy()
            for j in order(tasks):
                if j == i:
                    continue
                cosine = g @ J[j] / (np.linalg.norm(g) * np.linalg.norm(J[j]))
                target = targets[i, j]
                if cosine < target:
                    step = np.linalg.norm(g) * (target * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - target**2)) / (np.linalg.norm(J[j]) * np.sqrt(1 - target**2))
                    g = g + step * J[j]
                    used[i, j] += step
                targets[i, j] += beta * (cosine - target)
    return weighted(J, used.sum(0))


def cagrad(J, c, rescale):
    """Newton's method on the support that SLSQP finds; refused unless the conditions of optimality hold."""
    tasks = len(J)
    G, g0 = J @ J.T, J.mean(0)
    radius, slope = c * np.linalg.norm(g0), J @ g0
    scale = np.trace(G) / tasks

    def value(w):
        return w @ slope + radius * np.sqrt(max(w @ G @ w, 1e-300))

    def derivative(w):
        return slope + radius * (G @ w) / np.sqrt(max(w @ G @ w, 1e-300))

    start = minimize(lambda w: value(w) / scale, np.full(tasks, 1 / tasks), jac=lambda w: derivative(w) / scale, bounds=[(0, 1)] * tasks, method="SLSQP",
                     constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(tasks)}, options={"ftol": 1e-16, "maxiter": 1000}).x
    w = np.maximum(start, 0)
    for _ in range(4):  # the support may have to change
        support = np.flatnonzero(w > 1e-5)
        w = np.where(w > 1e-5, w, 0)
        w /= w.sum()
        for _ in range(100):
            root = np.sqrt(w @ G @ w)
            Gs = G[np.ix_(support, support)]
            image = (G @ w)[support]
            hessian = radius * (Gs / root - np.outer(image, image) / root**3)
            n = len(support)
            system = np.block([[hessian, -np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
            step = np.linalg.lstsq(system, np.append(-derivative(w)[support], 0.0), rcond=1e-15)[0][:n]
            length = 1.0
            while (w[support] + length * step < 0).any():
                length *= 0.5
            w[support] += length * step
            if np.abs(step).max() < 1e-15:
                break
        gradient = derivative(w)
        level = gradient[support].mean()
        worst = gradient.argmin()
        if gradient[worst] >= level - 1e-11 * scale:
            break
        w[worst] += 1e-3
    if np.abs(gradient[support] - level).max() > 1e-12 * scale or (gradient < level - 1e-11 * scale).any():
        return None
    weights = (1 / tasks + radius / np.sqrt(w @ G @ w) * w) / {0: 1, 1: 1 + c * c, 2: 1 + c}[rescale]
    return weighted(J, weights)


def imtl_g(J):
    U = J / np.linalg.norm(J, axis=1, keepdims=True)
    # the weights of the vector with equal projections on all u_i
    v = np.linalg.solve(J @ J.T, np.linalg.norm(J, axis=1))
    w = v / v.sum()
    assert np.ptp(U @ (w @ J)) < 1e-9 * np.abs(U @ (w @ J)).max()
    return weighted(J, w)


def fairgrad(J, alpha):
    """G w = w^(−1/α): the minimum of ½ wᵀGw − Σ ∫ w^(−1/α), by Newton steps in log w, damped unless small: there rounding hides what the potential loses."""
    G = J @ J.T
    power = 1 / alpha
    u = -np.log(np.diag(G)) / (1 + power)

    def potential(u):
        w = np.exp(u)
        return w @ G @ w / 2 - (u.sum() if alpha == 1 else (w ** (1 - power)).sum() / (1 - power))

    for _ in range(500):
        w = np.exp(u)
        residual = G @ w - w**-power
        gradient = w * residual
        hessian = w[:, None] * (G + np.diag(power * w ** (-power - 1))) * w
        step = -np.linalg.solve(hessian, gradient)
        length = 1.0
        while np.abs(step).max() > 1e-3 and potential(u + length * step) > potential(u) + 1e-4 * length * (gradient @ step) + 1e-14 * abs(potential(u)):
            length /= 2
            if length < 1e-12:
                break
        u = u + length * step
        if np.abs(step).max() < 1e-14:
            break
    w = np.exp(u)
    assert np.abs(w * (G @ w) - w ** (1 - power)).max() < 1e-9 * (w ** (1 - power)).max()
    return weighted(J, w)


def nash_mtl(J, max_norm):
    g, w = fairgrad(J, 1.0)
    shrink = min(1.0, max_norm / np.linalg.norm(g)) if max_norm else 1.0
    return g * shrink, w * shrink


def aligned_mtl(J, scale, preference):
    U, s, _ = np.linalg.svd(J, full_matrices=False)  # G = U s² Uᵀ
    eigenvalues = s**2
    s0 = {"min": eigenvalues.min(), "median": np.sort(eigenvalues)[(len(eigenvalues) - 1) // 2], "rmse": eigenvalues.mean()}[scale]
    balance = np.sqrt(s0) * (U / s) @ U.T
    return weighted(J, balance @ np.full(len(J), 1 / len(J) if preference == "mean" else 1.0))


def upgrad(J, preference):
    tasks = len(J)
    p = 1 / tasks if preference == "mean" else 1.0
    return weighted(J, sum(above(J, p * np.eye(tasks)[i]) for i in range(tasks)))


def dualproj(J, preference):
    tasks = len(J)
    return weighted(J, above(J, np.full(tasks, 1 / tasks if preference == "mean" else 1.0)))


def config(J):
    U = J / np.linalg.norm(J, axis=1, keepdims=True)
    direction = np.linalg.pinv(U) @ np.ones(len(J))
    direction /= np.linalg.norm(direction)
    return (J @ direction).sum() * direction, None


def graddrop(J, uniform, leak):
    purity = 0.5 * (1 + J.sum(0) / np.abs(J).sum(0))
    mask = ((purity > uniform) & (J > 0)) | ((purity < uniform) & (J < 0))
    return ((leak + (1 - leak) * mask) * J).sum(0), None


def trimmed_mean(J, trim):
    return np.sort(J, axis=0)[trim : len(J) - trim].mean(0), None


def metabalance(Js, core, relax, beta):
    m = np.zeros(len(Js[0]))
    for J in Js:
        m = beta * m + (1 - beta) * np.linalg.norm(J, axis=1)
    w = relax * m[core] / m + 1 - relax
    return weighted(Js[-1], w)


def core_task(J, core, alpha, gamma, clip, norm="before"):
    gc = J[core]
    result = gc.copy()
    for t in range(len(J)):
        if t == core:
            continue
        g = J[t].copy()
        size = np.linalg.norm(g)
        if g @ gc < 0:
            g = g - alpha * (g @ gc) / (gc @ gc) * gc
        if norm == "after":
            size = np.linalg.norm(g)
        ratio = np.clip(np.linalg.norm(gc) / size, 1 / clip, clip)
        result += gamma * ratio * g + (1 - gamma) * g
    return result, None


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def moco(J, losses, calls, beta, sigma, gamma, sigma_gamma, rho):
    y, weights = np.zeros_like(J), np.full(len(J), 1 / len(J))
    for k in range(1, calls + 1):
        y = y - beta / k**sigma * (y - J / (np.linalg.norm(J, axis=1, keepdims=True) + 1e-8) * np.array(losses)[:, None])
        weights = softmax(weights - gamma / k**sigma_gamma * ((y @ y.T + rho * np.eye(len(J))) @ weights))
    return weights @ y, weights


def db_mtl(J, losses, calls, beta, sigma):
    b = np.zeros_like(J)
    for k in range(1, calls + 1):
        logs = J / (np.array(losses)[:, None] + 1e-8)
        b = logs + beta / k**sigma * (b - logs)
    norms = np.linalg.norm(b, axis=1)
    return (norms.max() / norms) @ b, norms.max() / norms


def excess_mtl(Js, eta, warmup, scale):
    S, w, baseline = np.zeros_like(Js[0]), np.ones(len(Js[0])), 0.0
    for call, J in enumerate(Js):
        S = S + J**2
        e = (J**2 / np.sqrt(S + 1e-7)).sum(1)
        if call < max(warmup, 1):
            baseline = baseline + e / max(warmup, 1)
            if warmup == 0:
                w = w * np.exp(eta * e)
        else:
            w = w * np.exp(eta * e / (baseline + 1e-7))
        w = w / w.sum()
    return weighted(Js[-1], w * (len(w) if scale == "tasks" else 1))


def gradnorm(Js, losses, alpha, learning_rate):
    """After a call for each Jacobian and row of losses; the weights of the last one."""
    w = np.ones(len(Js[0]))
    for J, now in zip(Js, losses, strict=True):
        norms, result = np.sqrt((J * J).sum(1)), w
        relative = np.array(now) / np.array(losses[0])
        target = (w * norms).mean() * (relative / relative.mean()) ** alpha
        w = w - learning_rate * np.sign(w * norms - target) * norms
        assert (w > 0.01).all()
        w = w * len(J) / w.sum()
    return weighted(Js[-1], result)


def famo(J, losses, learning_rate, weight_decay, max_norm):
    """A call for each row of losses, which are those after the step as well; Adam as everywhere."""
    logits, first, second = np.zeros(len(J)), np.zeros(len(J)), np.zeros(len(J))
    before = None
    for step, now in enumerate(losses):
        distance, z = np.array(now) + 1e-8, softmax(logits)
        if before is not None:
            progress = np.log(before) - np.log(distance)
            slope = z * (progress - z @ progress) + weight_decay * logits
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope ** 2
            logits = logits - learning_rate * (first / (1 - 0.9 ** step)) / (np.sqrt(second / (1 - 0.999 ** step)) + 1e-8)
            z = softmax(logits)
        before = distance
        w = z / distance / (z / distance).sum()
        w = w * min(1.0, max_norm / np.linalg.norm(w @ J))
    return weighted(J, w)


def project_to_simplex(v):
    ordered = np.sort(v)[::-1]
    tau = (np.cumsum(ordered) - 1) / np.arange(1, len(v) + 1)
    return np.maximum(v - tau[np.flatnonzero(ordered > tau)[-1]], 0)


def modo(Js, gamma, rho, calls):
    w = np.full(len(Js[0]), 1 / len(Js[0]))
    for _ in range(calls):
        w = project_to_simplex(w - gamma * (Js[0] @ Js[1].T @ w + rho * w))
    return weighted(Js[-1], w)


def sdmgrad(Js, pull):
    """min ½ wᵀSw + pull w̃ᵀAᵀw on the simplex, S the positive part of A = J_1 J_2ᵀ made symmetric: ½ ‖R w + pull R⁻ᵀA w̃‖² with RᵀR = S, as Σ w = 1."""
    tasks, A = len(Js[0]), Js[0] @ Js[1].T
    values, vectors = np.linalg.eigh((A + A.T) / 2)
    assert values.min() > 1e-3  # else R has no inverse
    rows = vectors * np.sqrt(values)
    w = nearest_point(rows + pull * np.linalg.solve(rows, A.mean(1)))
    return weighted(Js[-1], (w + pull / tasks) / (1 + pull))


def krum(J, byzantine, selected):
    tasks = len(J)
    squares = ((J[:, None] - J[None]) ** 2).sum(2)
    scores = [np.sort(np.delete(squares[i], i))[: tasks - byzantine - 2].sum() for i in range(tasks)]
    ordered = np.sort(scores)
    if selected < tasks and ordered[selected] - ordered[selected - 1] < 1e-9 * ordered[selected]:
        return None  # a tie, as of two tasks that are each other's nearest: rounding would choose
    w = np.zeros(tasks)
    w[np.argsort(scores, kind="stable")[:selected]] = 1 / selected
    return weighted(J, w)


def cr_mogm(weights, decay, initial, calls):
    average = np.array(initial) if initial is not None else weights
    for _ in range(calls):
        average = decay * average + (1 - decay) * weights
    return average


# ---- cases -------------------------------------------------------------------------------------------------------------------------------------------------
def short(x):
    """12 digits: what is the same on every machine."""
    if isinstance(x, np.ndarray):
        return [short(y) for y in x.tolist()]
    if isinstance(x, list):
        return [short(y) for y in x]
    return x if isinstance(x, int) else float(f"{x:.12g}") + 0.0


class File:
    def __init__(self, about):
        self.about, self.cases = about, []

    def add(self, method, options, J, result, tolerance, source, weights=True, gradient=True, published=None, published_weights=None, **keys):
        g, w = result
        for given, computed in ((published, g), (published_weights, w)):
            assert given is None or np.abs(np.array(given) - computed).max() < 1e-6, (method, source, given, computed)
        case = {"method": method}
        if options:
            case["options"] = options
        if J is not None:
            case["jacobian"] = J.tolist()
        case.update(keys)
        expected = {}
        if gradient and g is not None:
            expected["gradient"] = short(g)
        if weights and w is not None:
            expected["weights"] = short(w)
        case.update(expected=expected, tolerance=tolerance, source=source)
        self.cases.append(case)

    def text(self):
        lines = ",\n".join("    " + json.dumps(case, ensure_ascii=False) for case in self.cases)
        return '{\n  "about": ' + json.dumps(self.about) + ',\n  "cases": [\n' + lines + "\n  ]\n}\n"


def catalogue():
    file = File("Golden numbers of the catalogue of gradient methods; written by scripts/golden_methods.py, not by hand.")
    tight = 1e-9

    def both(method, options, function, source, on2=None, on3=None, **keys):
        """One case each for J2 and J3; on2 and on3 are (gradient, weights) of the literature to six digits, None where there are none."""
        for J, name, known in ((J2, "J2", on2), (J3, "J3", on3)):
            known = known or (None, None)
            file.add(method, options, J, function(J), tight, f"{source}; on {name}", published=known[0], published_weights=known[1], **keys)

    both("sum", {}, lambda J: weighted(J, np.ones(len(J))), "definition", ([2, 2, 2], None), ([-0.5, 2, 2.5, -1], None))
    both("mean", {}, lambda J: weighted(J, np.full(len(J), 1 / len(J))), "definition", None, ([-1 / 6, 2 / 3, 2.5 / 3, -1 / 3], None))
    file.add("constant", {"weights": [1, 2, 0.5]}, J3, weighted(J3, np.array([1, 2, 0.5])), tight, "definition; on J3")
    both("mgda", {"scale": "one"}, lambda J: weighted(J, nearest_point(J)), "Sener and Koltun 2018, Eq. 3", ([0, 1, 1], [0.6, 0.4]),
         ([-0.092765, 0.882061, 0.543905, -0.212091], [0.414073, 0.319921, 0.266006]))
    both("mgda", {"scale": "tasks"}, lambda J: weighted(J, nearest_point(J) * len(J)), "Sener and Koltun 2018, Eq. 3, times T")
    yu = "Yu et al. 2020, Algorithm 1, without shuffling"
    both("pcgrad", {"order": "ascending", "reduction": "sum"}, lambda J: pcgrad(J, ascending), yu, ([0.584795, 3.80117, 3.80117], [2.222222, 1.578947]),
         ([-0.480877, 3.675088, 3.531404, -1.523158], [1.833333, 1.54, 1.531579]))
    both("pcgrad", {"order": "descending", "reduction": "sum"}, lambda J: pcgrad(J, descending), yu, None,
         ([-0.468772, 4.111579, 3.278596, -1.37614], [1.998246, 1.606316, 1.491228]))
    both("pcgrad", {"order": "ascending", "reduction": "mean"}, lambda J: weighted(J, pcgrad(J, ascending)[1] / len(J)), yu + ", mean")
    wang = "Wang et al. 2021, Eq. 3 and 4"
    both("gradvac", {"beta": 0.5, "order": "ascending"}, lambda J: gradvac(J, ascending, 0.5, 1), wang + ", call 1", ([0.584795, 3.80117, 3.80117], None),
         ([-0.480877, 3.675088, 3.531404, -1.523158], None))
    both("gradvac", {"beta": 0.5, "order": "ascending"}, lambda J: gradvac(J, ascending, 0.5, 2), wang + ", call 2", (None, [1.857988, 1.406415]),
         (None, [1.454024, 1.244795, 1.265599]), calls=2)
    file.add("gradvac", {"beta": 0.5}, J3, gradvac(J3, ascending, 0.5, 1), tight, wang + ", call 1, in the order that a case without one means; on J3",
             published=[-0.480877, 3.675088, 3.531404, -1.523158], published_weights=[1.833333, 1.54, 1.531579])
    both("gradvac", {"beta": 0.5, "order": "descending"}, lambda J: gradvac(J, descending, 0.5, 4), wang + ", call 4", calls=4)
    liu = "Liu et al. 2021 (CAGrad), Eq. 3 and 4"
    on2 = {0: [0.183503, 1.204124, 1.204124], 1: [0.146803, 0.963299, 0.963299], 2: [0.122336, 0.802749, 0.802749]}
    on3 = {0: [-0.128693, 1.223684, 0.754559, -0.294234], 1: [-0.102954, 0.978947, 0.603647, -0.235387], 2: None}
    for rescale in (0, 1, 2):
        both("cagrad", {"c": 0.5, "rescale": rescale}, lambda J: cagrad(J, 0.5, rescale), liu, (on2[rescale], [0.704124, 0.5] if rescale == 0 else None),
             (on3[rescale], [0.574444, 0.443826, 0.36903] if rescale == 0 else None))
    both("cagrad", {"c": 0.4, "rescale": 0}, lambda J: cagrad(J, 0.4, 0), liu, ([0.346803, 1.163299, 1.163299], [0.663299, 0.5]),
         ([-0.110084, 1.085601, 0.68502, -0.27218], [0.512224, 0.394487, 0.333333]))
    both("imtl_g", {}, imtl_g, "Liu et al. 2021 (IMTL), Eq. 3 to 6", ([0.076697, 1, 1], [0.59233, 0.40767]),
         ([-0.066375, 0.829269, 0.612225, -0.267985], [0.404756, 0.307501, 0.287743]))
    ban = "Ban and Ji 2024, Eq. 4"
    nash = ([0.076584, 0.998533, 0.998533], [0.591461, 0.407071]), ([-0.19668, 1.365911, 0.97881, -0.370855], [0.642537, 0.532532, 0.451694])
    both("fairgrad", {"alpha": 1.0}, lambda J: fairgrad(J, 1.0), ban, *nash)
    both("fairgrad", {"alpha": 2.0}, lambda J: fairgrad(J, 2.0), ban, ([0.031274, 0.790817, 0.790817], [0.471363, 0.319454]),
         ([-0.146606, 1.139274, 0.764464, -0.291491], [0.534761, 0.430994, 0.361243]))
    both("fairgrad", {"alpha": 0.5}, lambda J: fairgrad(J, 0.5), ban)
    both("nash_mtl", {"max_norm": 1.0}, lambda J: nash_mtl(J, 1.0), "Navon et al. 2022, Claim 3.1, clipped to norm 1", ([0.054153, 0.706069, 0.706069], None),
         ([-0.113553, 0.788609, 0.565116, -0.214113], None))
    both("nash_mtl", {"max_norm": 100.0}, lambda J: nash_mtl(J, 100.0), "Navon et al. 2022, Claim 3.1", *nash)
    senushkin = "Senushkin et al. 2023, Eq. 9 to 11"
    median = ([0.426557, 1.934666, 1.934666], [1.118144, 0.816522])
    both("aligned_mtl", {"scale": "min", "preference": "sum"}, lambda J: aligned_mtl(J, "min", "sum"), senushkin, median,
         ([-0.375297, 2.35996, 1.858784, -0.711215], [1.118923, 0.955443, 0.833329]))
    both("aligned_mtl", {"scale": "min", "preference": "mean"}, lambda J: aligned_mtl(J, "min", "mean"), senushkin)
    both("aligned_mtl", {"scale": "median", "preference": "sum"}, lambda J: aligned_mtl(J, "median", "sum"), senushkin + ", lower median", median,
         (None, [1.603573, 1.369282, 1.194276]))
    both("aligned_mtl", {"scale": "rmse", "preference": "sum"}, lambda J: aligned_mtl(J, "rmse", "sum"), senushkin + ", mean", (None, [3.021731, 2.206613]),
         (None, [1.852183, 1.581569, 1.379431]))
    quinton = "Quinton and Rey 2024, Eq. 6"
    both("upgrad", {"preference": "mean"}, lambda J: upgrad(J, "mean"), quinton, ([0.292398, 1.900585, 1.900585], [1.111111, 0.789474]),
         ([-0.163402, 1.402096, 1.209847, -0.517732], [0.690067, 0.561658, 0.539695]))
    both("upgrad", {"preference": "sum"}, lambda J: upgrad(J, "sum"), quinton)
    both("dualproj", {"preference": "mean"}, lambda J: dualproj(J, "mean"), "Lopez-Paz and Ranzato 2017 (GEM), Eq. 11, of the mean gradient",
         ([0.555556, 1.111111, 1.111111], [0.611111, 0.5]), ([-1 / 6, 2 / 3, 2.5 / 3, -1 / 3], [1 / 3] * 3))
    both("config", {}, config, "Liu et al. 2024 (ConFIG), Eq. 2 and 3", ([0.158809, 2.070607, 2.070607], None),
         ([-0.203443, 2.541762, 1.876506, -0.821392], None))
    chen = "Chen et al. 2020, Algorithm 1, U = 0.5"
    both("graddrop", {"leak": 0.0}, lambda J: graddrop(J, 0.5, 0.0), chen, ([6, 2, 2], None), ([-2, 3, 3.5, -2], None), uniform=0.5)
    both("graddrop", {"leak": 0.25}, lambda J: graddrop(J, 0.5, 0.25), chen, ([5, 2, 2], None), ([-1.625, 2.75, 3.25, -1.75], None), uniform=0.5)
    for first, second in ((0.42857, 0.42858), (0.7499, 0.7501), (0.77777, 0.77778), (0.33333, 0.33334)):  # on either side of the purities of J3
        for u in (first, second):
            file.add("graddrop", {}, J3, graddrop(J3, u, 0.0), tight, f"Chen et al. 2020, Algorithm 1, U = {u}; on J3", uniform=u)
    he = "He et al. 2022 (MetaBalance), Eq. 5 to 7"
    step2 = J3 * np.array([[2.0], [1], [4]])
    options = {"core": 0, "relax": 0.7, "beta": 0.9}
    file.add("metabalance", options, J3, metabalance([J3], 0, 0.7, 0.9), tight, he + ", all shared numbers as one tensor, call 1; on J3",
             published=[-0.594604, 2.231637, 1.755589, -0.522583])
    file.add("metabalance", options, step2, metabalance([J3, step2], 0, 0.7, 0.9), tight, he + ", call 2; on J3, then with rows times 2, 1, 4",
             published=[0.443979, 3.071538, 5.499306, -3.203758], history=[J3.tolist()])
    apart = np.concatenate([metabalance([J3[:, :2]], 0, 0.7, 0.9)[0], metabalance([J3[:, 2:]], 0, 0.7, 0.9)[0]])
    file.add("metabalance", options, J3, (apart, None), tight, he + ", two tensors of two columns; on J3", published=[-0.15, 1.3, 0.945485, -0.062191],
             columns=[2, 2])
    moving = {"core": 0, "alpha": 0.0, "gamma": 0.7, "clip_ratio": 1e300, "norm": "moving_average", "average_decay": 0.9}
    file.add("core_task", moving, step2, metabalance([J3, step2], 0, 0.7, 0.9), tight, he + ", as HTLNet's adjustment with moving averages; on J3",
             history=[J3.tolist()])
    tang = "Tang et al. 2024 (HTLNet), Algorithm 1"
    for core, alpha, norm, known in ((0, 0.5, "before", [-0.110099, 2.839922, 1.99024, -0.931798]), (2, 0.5, "before", [-0.418567, 1.900586, 3.247281, -1.466266]),
                                     (2, 1.0, "before", [-0.289252, 1.641955, 4.023175, -1.983528]),
                                     (2, 0.5, "after", [-0.409581, 1.933523, 3.242107, -1.467853]),
                                     (0, 0.5, "after", [-0.104748, 2.838522, 2.00785, -0.944883])):
        file.add("core_task", {"core": core, "alpha": alpha, "gamma": 0.1, "clip_ratio": 10.0, "norm": norm}, J3, core_task(J3, core, alpha, 0.1, 10, norm), tight,
                 f"{tang}, norm {norm} the projection; on J3", published=known)
    apart = np.concatenate([core_task(J3[:, :2], 2, 0.5, 0.1, 10)[0], core_task(J3[:, 2:], 2, 0.5, 0.1, 10)[0]])
    file.add("core_task", {"core": 2, "alpha": 0.5, "gamma": 0.1, "clip_ratio": 10.0}, J3, (apart, None), tight, tang + ", two tensors of two columns; on J3",
             published=[0.215, 0.52, 2.857564, -1.115426], columns=[2, 2])
    losses = [2.0, 0.5, 1.0]
    settings = {"beta": 0.5, "sigma": 0.5, "gamma": 0.1, "sigma_gamma": 0.5, "rho": 0.0}
    for calls, known, known_weights in ((1, [0.088933, 0.256725, 0.016579, -0.055494], [0.327838, 0.335883, 0.336279]), (5, None, None)):
        file.add("moco", settings, J3, moco(J3, losses, calls, *settings.values()), tight,
                 f"Fernando et al. 2023, Algorithm 1, of unit gradients times losses 2, 0.5, 1, call {calls}; on J3", published=known,
                 published_weights=known_weights, losses=losses, calls=calls)
    file.add("moco", {**settings, "rho": 0.3}, J3, moco(J3, losses, 3, 0.5, 0.5, 0.1, 0.5, 0.3), tight, "Fernando et al. 2023, Algorithm 1, ρ = 0.3, call 3; on J3",
             losses=losses, calls=3, columns=[1, 3])
    for calls, known, known_weights in ((1, [-0.129649, 0.475795, 0.293236, -0.064906], [4.082483, 1, 1.324532]), (5, None, None)):
        file.add("db_mtl", {"beta": 0.9, "sigma": 0.0}, J3, db_mtl(J3, losses, calls, 0.9, 0.0), tight,
                 f"Lin et al. 2023, Algorithm 1, losses 2, 0.5, 1, call {calls}; on J3", published=known, published_weights=known_weights, losses=losses, calls=calls)
    file.add("db_mtl", {"beta": 0.8, "sigma": 0.5}, J3, db_mtl(J3, losses, 4, 0.8, 0.5), tight, "Lin et al. 2023, Algorithm 1, σ = 0.5, call 4; on J3", losses=losses,
             calls=4, columns=[3, 1])
    he24 = "He et al. 2024 (ExcessMTL), Eq. 6 to 9"
    file.add("excess_mtl", {"eta": 1.0, "warmup": 0, "scale": "one"}, J3, excess_mtl([J3], 1.0, 0, "one"), tight, he24 + ", no warm-up, call 1; on J3",
             published_weights=[0.067425, 0.111166, 0.821409])
    file.add("excess_mtl", {"eta": 1.0, "warmup": 0, "scale": "one"}, step2, excess_mtl([J3, step2], 1.0, 0, "one"), tight,
             he24 + ", no warm-up, call 2; on J3, then with rows times 2, 1, 4", history=[J3.tolist()], columns=[1, 3])
    file.add("excess_mtl", {"eta": 0.01, "warmup": 1, "scale": "tasks"}, step2, excess_mtl([J3, step2], 0.01, 1, "tasks"), tight,
             he24 + ", call 2; on J3, then with rows times 2, 1, 4", history=[J3.tolist()])
    file.add("excess_mtl", {"eta": 0.1, "warmup": 2, "scale": "tasks"}, step2, excess_mtl([J3, J3, step2, step2], 0.1, 2, "tasks"), tight,
             he24 + ", warm-up of two calls, call 4; on J3, then with rows times 2, 1, 4", history=[J3.tolist()] * 2, calls=2)
    file.add("modo", {"gamma": 0.1, "rho": 0.1}, None, modo([J3, J3, J3], 0.1, 0.1, 1), tight, "Chen et al. 2023 (MoDo), Algorithm 1, equal batches; on J3",
             published_weights=[0.427778, 0.352778, 0.219444], jacobians=[J3.tolist()] * BATCHES_OF_MODO)
    other = J3[::-1] @ np.diag([1.0, -1, 0.5, 2])
    Js = [J3, other, J3 + other][:BATCHES_OF_MODO]
    file.add("modo", {"gamma": 0.05, "rho": 0.1}, None, modo(Js, 0.05, 0.1, 3), tight, "Chen et al. 2023 (MoDo), Algorithm 1, call 3 with three batches; on J3",
             jacobians=[J.tolist() for J in Js], calls=3)
    two = "with two batches, of which the second is also the one that is weighed; on J3"
    file.add("modo", {"gamma": 0.1, "rho": 0.1}, None, modo([J3, J3], 0.1, 0.1, 1), tight, f"Chen et al. 2023 (MoDo), Algorithm 1, equal batches, {two}",
             published_weights=[0.427778, 0.352778, 0.219444], jacobians=[J3.tolist()] * 2)
    file.add("modo", {"gamma": 0.05, "rho": 0.1}, None, modo([J3, other], 0.05, 0.1, 3), tight, f"Chen et al. 2023 (MoDo), Algorithm 1, call 3 {two}",
             jacobians=[J3.tolist(), other.tolist()], calls=3)
    mgda = ([-0.092765, 0.882061, 0.543905, -0.212091], [0.414073, 0.319921, 0.266006])
    file.add("pe_ltr", {"bounds": [0.1, 0.1, 0.1]}, J3, weighted(J3, nearest_point(J3, np.full(3, 0.1))), tight, "Lin et al. 2019 (PE-LTR), Eq. 6; on J3",
             published=mgda[0], published_weights=mgda[1])
    file.add("pe_ltr", {"bounds": [0.1, 0.2, 0.5]}, J3, weighted(J3, nearest_point(J3, np.array([0.1, 0.2, 0.5]))), tight, "Lin et al. 2019 (PE-LTR), Eq. 6; on J3")
    file.add("pe_ltr", {"bound": 0.3}, J3, weighted(J3, nearest_point(J3, np.full(3, 0.3))), tight, "Lin et al. 2019 (PE-LTR), Eq. 6; on J3")
    lower = 0.3 / 1.3 / 3
    file.add("sdmgrad", {"lambda": 0.3}, None, weighted(J3, nearest_point(J3, np.full(3, lower))), tight, "Xiao et al. 2023 (SDMGrad), Eq. 8, solved exactly; on J3",
             published=mgda[0], published_weights=mgda[1], jacobians=[J3.tolist()] * BATCHES_OF_SDMGRAD)
    file.add("sdmgrad", {"lambda": 0.3}, None, sdmgrad([J3, J3], 0.3), tight, f"Xiao et al. 2023 (SDMGrad), Eq. 8, solved exactly, equal batches, {two}",
             published=mgda[0], published_weights=mgda[1], jacobians=[J3.tolist()] * 2)
    near = J3 + 0.25 * np.roll(J3, 1, axis=0)
    for batches, text in (([J3, near], two), ([J3, near, other], "with three batches; on J3")):
        file.add("sdmgrad", {"lambda": 0.3}, None, sdmgrad(batches, 0.3), tight, f"Xiao et al. 2023 (SDMGrad), Eq. 8, solved exactly, {text}",
                 jacobians=[J.tolist() for J in batches])
    file.add("cr_mogm", {"decay": 0.9, "initial": [1 / 3] * 3}, J3, weighted(J3, cr_mogm(nearest_point(J3), 0.9, [1 / 3] * 3, 1)), tight,
             "Zhou et al. 2022, Algorithm 1, around MGDA, call 1; on J3", published_weights=[0.341407, 0.331992, 0.326601],
             inner={"method": "mgda", "options": {"scale": "one"}})
    file.add("cr_mogm", {"decay": 0.5}, J3, weighted(J3, cr_mogm(nearest_point(J3), 0.5, None, 3)), tight,
             "Zhou et al. 2022, Algorithm 1, around MGDA, from its first weights, call 3; on J3", inner="mgda", calls=3)
    file.add("cr_mogm", {"decay": 0.5, "initial": [1, 0, 0]}, J3, weighted(J3, cr_mogm(upgrad(J3, "sum")[1], 0.5, [1, 0, 0], 3)), tight,
             "Zhou et al. 2022, Algorithm 1, around UPGrad, call 3; on J3", inner={"method": "upgrad", "options": {"preference": "sum"}}, calls=3)
    chen18 = "Chen et al. 2018 (GradNorm), Algorithm 1"
    settings = {"alpha": 1.5, "learning_rate": 0.025}
    nothing, rows = np.zeros_like(J3), [[4.0, 0.5, 2], [2.0, 0.5, 1], [2.0, 0.5, 1]]
    file.add("gradnorm", settings, J3, gradnorm([nothing, J3, J3], rows, 1.5, 0.025), tight,
             chen18 + ", call 2; on J3, after zeros, which leave the weights and take the first losses", published_weights=[0.968832, 1.096533, 0.934635],
             losses=rows, calls=2, history=[nothing.tolist()])
    rows = [[4.0, 0.5, 2], [2.0, 0.5, 1], [1.5, 0.4, 1.1], [1.0, 0.45, 0.6]]
    file.add("gradnorm", settings, J3, gradnorm([J3] * 4, rows, 1.5, 0.025), tight, chen18 + ", call 4; on J3", losses=rows, calls=4)
    liu23 = "Liu et al. 2023 (FAMO), Algorithm 1"
    settings, rows = {"learning_rate": 0.025, "weight_decay": 0.0}, [[2.0, 0.5, 1], [1.8, 0.52, 0.7]]
    file.add("famo", settings, J3, famo(J3, rows[:1], 0.025, 0.0, np.inf), tight, liu23 + ", call 1; on J3",
             published_weights=[0.142857, 0.571429, 0.285714], losses=rows[:1])
    parts = np.array([0.338842, 0.338842, 0.322316]) / rows[1]  # z over the losses
    file.add("famo", settings, J3, famo(J3, rows, 0.025, 0.0, np.inf), tight, liu23 + ", call 2; on J3", published_weights=parts / parts.sum(), losses=rows,
             calls=2)
    blanchard = np.array([[1.0, 1, 1], [1, 0, 1], [75, -666, 23], [1, 2, 3], [2, 0, 1]])
    file.add("krum", {"byzantine": 1, "selected": 4}, blanchard, krum(blanchard, 1, 4), tight, "Blanchard et al. 2017, Section 4, four selected",
             published=[1.25, 0.75, 1.5])
    file.add("krum", {"byzantine": 1, "selected": 1}, blanchard, krum(blanchard, 1, 1), tight, "Blanchard et al. 2017, Section 4")
    yin = np.array([[1e11, 3], [1, -1e11], [-1e10, 1e10], [2, 2.0]])
    file.add("trimmed_mean", {"trim": 1}, yin, trimmed_mean(yin, 1), tight, "Yin et al. 2018, Definition 2", published=[1.5, 2.5])
    return file


BATCHES_OF_MODO = 3
BATCHES_OF_SDMGRAD = 3


def gradients(random, tasks, width, kind):
    """Random gradients with few digits."""
    J = random.normal(size=(tasks, width))
    if kind == "conflicting":
        J -= 0.9 * J.mean(0)
    elif kind == "aligned":
        J += 2.0 * random.normal(size=width)
    elif kind == "sizes":  # norms that differ by orders of magnitude
        J *= 10.0 ** random.integers(-3, 4, size=(tasks, 1))
    elif kind == "near":  # two tasks almost alike: an ill-conditioned Gramian
        J[1] = J[0] + 1e-3 * random.normal(size=width)
    elif kind == "opposed":
        J[1] = -J[0] * random.uniform(0.5, 2) + 0.01 * random.normal(size=width)
    return np.array([[float(f"{x:.4g}") for x in row] for row in J])


def random_cases():
    file = File("Random gradients of 2 to 16 tasks, well and ill conditioned; written by scripts/golden_methods.py, not by hand.")
    random = np.random.default_rng(20240914)
    kinds = ["normal", "conflicting", "aligned", "sizes", "near", "opposed"]
    skipped = 0
    for repetition in range(30):
        kind = kinds[repetition % len(kinds)]
        tasks = int(random.choice([2, 3, 3, 4, 5, 6, 8])) if repetition < 24 else int(random.choice([10, 12, 16]))
        width = tasks + int(random.integers(1, 4))
        J = gradients(random, tasks, width, kind)
        condition = np.linalg.cond(J @ J.T)
        source = f"random, {kind}, {tasks} tasks, condition of the Gramian {condition:.1e}"
        # what the rounding of the Gramian costs a method whose weights are no continuous function of it with a bound of its own
        loose = max(1e-9, 1e-14 * condition)
        order = ["ascending", "descending"][repetition % 2]
        uniform = [float(f"{u:.6f}") for u in random.uniform(size=width)]
        losses = [float(f"{x:.3f}") for x in random.uniform(0.1, 3, size=tasks)]
        core = int(random.integers(tasks))
        bounds = [float(f"{x:.3f}") for x in random.dirichlet(np.ones(tasks)) * random.uniform(0, 0.9)]

        def add(method, options, result, tolerance=1e-9, **keys):
            nonlocal skipped
            if result is None or tolerance > 1e-4:
                skipped += 1
                return
            file.add(method, options, J, result, tolerance, source, **keys)

        def visit(n):
            return ascending(n) if order == "ascending" else descending(n)

        every_third = repetition % 3 == 0
        add("pcgrad", {"order": order, "reduction": "sum"}, pcgrad(J, visit))
        add("gradvac", {"beta": 0.5, "order": order}, gradvac(J, visit, 0.5, 3), 1e-7, calls=3)
        add("mgda", {"scale": "one"}, weighted(J, nearest_point(J)), loose, weights=condition < 1e8)
        c = [0.2, 0.4, 0.5, 0.9][repetition % 4]
        add("cagrad", {"c": c, "rescale": repetition % 3}, cagrad(J, c, repetition % 3), max(1e-7, loose), weights=condition < 1e4)
        if condition < 1e9:
            add("imtl_g", {}, imtl_g(J), 10 * loose)
            add("aligned_mtl", {"scale": ["min", "median", "rmse"][repetition % 3], "preference": ["sum", "mean"][repetition % 2]},
                aligned_mtl(J, ["min", "median", "rmse"][repetition % 3], ["sum", "mean"][repetition % 2]), loose)
            add("config", {}, config(J), loose)
        alpha = [1.0, 2.0, 0.5][repetition % 3]
        add("fairgrad", {"alpha": alpha}, fairgrad(J, alpha), max(1e-7, loose), weights=condition < 1e8)
        if every_third:
            add("nash_mtl", {"max_norm": 1.0}, nash_mtl(J, 1.0), max(1e-7, loose), weights=False)
        preference = ["mean", "sum"][repetition % 2]
        add("upgrad", {"preference": preference}, upgrad(J, preference), loose, weights=condition < 1e6)
        add("dualproj", {"preference": preference}, dualproj(J, preference), loose, weights=condition < 1e6)
        add("pe_ltr", {"bounds": bounds}, weighted(J, nearest_point(J, np.array(bounds))), loose, weights=condition < 1e6)
        add("core_task", {"core": core, "alpha": 1.0, "gamma": 0.5, "clip_ratio": 100.0, "norm": ["before", "after"][repetition % 2]},
            core_task(J, core, 1.0, 0.5, 100.0, ["before", "after"][repetition % 2]))
        add("metabalance", {"core": core, "relax": 0.7, "beta": 0.9}, metabalance([J] * 3, core, 0.7, 0.9), calls=3)
        add("graddrop", {"leak": 0.1}, graddrop(J, np.array(uniform), 0.1), uniform=uniform, columns=[1, width - 1])
        if tasks >= 3:
            add("trimmed_mean", {"trim": (tasks - 1) // 2}, trimmed_mean(J, (tasks - 1) // 2))
            add("krum", {"byzantine": max(tasks - 4, 0), "selected": 1 + tasks // 3}, krum(J, max(tasks - 4, 0), 1 + tasks // 3))
        if every_third:
            add("moco", {"beta": 0.5, "sigma": 0.5, "gamma": 0.1, "sigma_gamma": 0.5, "rho": 0.1}, moco(J, losses, 4, 0.5, 0.5, 0.1, 0.5, 0.1), losses=losses, calls=4)
            add("db_mtl", {"beta": 0.9, "sigma": 0.5}, db_mtl(J, losses, 4, 0.9, 0.5), losses=losses, calls=4)
            add("excess_mtl", {"eta": 0.1, "warmup": 1, "scale": "tasks"}, excess_mtl([J] * 4, 0.1, 1, "tasks"), calls=4)
            batches = [J, J + 0.2 * np.roll(J, 1, axis=1), J + 0.2 * np.roll(J, 1, axis=0)]
            gamma = float(f"{0.1 / np.abs(J @ J.T).max():.3e}")
            file.add("modo", {"gamma": gamma, "rho": 0.1}, None, modo(batches, gamma, 0.1, 3), 1e-9, source, jacobians=[b.tolist() for b in batches], calls=3)
            pull = [0.3, 1.0][repetition % 2]
            add("sdmgrad", {"lambda": pull}, weighted(J, nearest_point(J, np.full(tasks, pull / (tasks * (1 + pull))))), loose, weights=condition < 1e6)
            falling = [[float(f"{x * (1 - 0.08 * call * (1 + t % 3)):.6f}") for t, x in enumerate(losses)] for call in range(4)]
            rate = float(f"{0.02 / np.sqrt((J * J).sum(1)).max():.3e}")
            add("gradnorm", {"alpha": 1.5, "learning_rate": rate}, gradnorm([J] * 4, falling, 1.5, rate), losses=falling, calls=4)
            add("famo", {"learning_rate": 0.025, "weight_decay": 0.01, "max_norm": 1.0}, famo(J, falling, 0.025, 0.01, 1.0), losses=falling, calls=4)
    print(f"random.json: {len(file.cases)} cases, {skipped} skipped, since they are ties, or since their optimality could not be shown", file=sys.stderr)
    return file


def same_cases(old, new):
    """Whether two files hold the same cases, and numbers that agree to a tenth of the tolerances, which may themselves come from a rounded condition."""
    for a, b in zip(old["cases"], new["cases"]):
        bounds = {key: 0.1 * b["tolerance"] * max(1.0, np.abs(value).max()) + 1e-11 for key, value in b["expected"].items()}
        if {**a, "expected": 0, "tolerance": 0} != {**b, "expected": 0, "tolerance": 0} or a["expected"].keys() != b["expected"].keys():
            return False
        if abs(a["tolerance"] - b["tolerance"]) > 1e-6 * b["tolerance"]:
            return False
        if any(np.abs(np.array(a["expected"][key]) - b["expected"][key]).max() > bound for key, bound in bounds.items()):
            return False
    return len(old["cases"]) == len(new["cases"])


def write_or_check(file, name, check):
    path = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / name
    if not check:
        path.write_text(file.text(), encoding="utf-8")
    elif not same_cases(json.loads(path.read_text(encoding="utf-8")), json.loads(file.text())):
        sys.exit(f"{path} is not what this script writes; run it without --check")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="compare with the files that are there, and write nothing")
    check = parser.parse_args().check
    write_or_check(catalogue(), "catalogue.json", check)
    write_or_check(random_cases(), "random.json", check)


if __name__ == "__main__":
    main()

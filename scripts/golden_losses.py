"""Writes tests/golden/losses/losses.json: what losses and their predictions are by their definitions, computed by numpy and scipy in float64.

    python3 -m venv venv && venv/bin/pip install -r scripts/golden_requirements.txt
    venv/bin/python scripts/golden_losses.py            # --check: compares with the file that is there and writes nothing

tests/loss/numbers_test.cpp reads it: each case names a loss as the registry does ("ziln:max_sigma=5"), outputs, labels, the loss of each row and what it predicts.
Nothing here is taken from the library's C++: likelihoods are scipy.stats' densities, the Tweedie density is the mixture of gamma densities over a Poisson number
of them, deviances are integrals of their definition.
"""
import argparse
import json
import pathlib

import numpy as np
from scipy import integrate, special, stats

CASES = []


def case(loss, outputs, labels, rows, predictions=None, tolerance=1e-10):
    """One case; numbers as Python prints them, so that the file is the same on every run."""
    numbers = lambda a: [float(x) for x in np.ravel(a)]
    entry = {"loss": loss, "outputs": [numbers(row) for row in np.atleast_2d(np.asarray(outputs, float))], "labels": numbers(labels), "rows": numbers(rows)}
    if predictions is not None:
        entry["predictions"] = numbers(predictions)
    entry["tolerance"] = tolerance
    CASES.append(entry)


def column(values):
    return np.asarray(values, float)[:, None]


# ---- numbers, events, classes ------------------------------------------------------------------------------------------------------------------------------
def numbers():
    x, y = np.array([0.6, -0.7, 3.5, 0.8, 2.0]), np.array([1.0, 1.2, 0.0, 7.0, 2.0])
    e = x - y
    case("absolute", column(x), y, np.abs(e), x)
    case("log_cosh", column(x), y, np.log(np.cosh(e)), x)
    case("log_cosh:scale=2.5", column(x), y, 2.5**2 * np.log(np.cosh(e / 2.5)), x)
    for q in (0.1, 0.75):
        case(f"quantile:q={q}", column(x), y, [max(q * (t - p), (q - 1) * (t - p)) for p, t in zip(x, y)], x)
    levels, outputs = (0.1, 0.5, 0.8), np.array([[1.0, 3, 2], [0, 0.5, 0.7], [-1, 4, 9]])
    labels = np.array([2.5, 0.1, 5])
    rows = [np.mean([max(q * (t - o), (q - 1) * (t - o)) for q, o in zip(levels, row)]) for row, t in zip(outputs, labels)]
    case("quantiles:levels=0.1;0.5;0.8", outputs, labels, rows, np.median(outputs, 1))
    # each output for the levels that are nearest to its own: up to 0.3, to 0.65, to 1
    case("quantiles:levels=0.1;0.5;0.8,predicts=mean", outputs, labels, rows, [np.dot(np.sort(row), [0.3, 0.35, 0.35]) for row in outputs])
    slope_below = np.where(x < 0, x, np.log1p(np.maximum(x, 0)))
    case("squared_log", column(x), y, (slope_below - np.log1p(y)) ** 2, x)


def classes():
    z, y = np.array([0.3, -2.0, 4.0, 1.0]), np.array([1.0, 0.0, 0.0, 1.0])
    p = special.expit(z)
    soft = y * 0.8 + 0.1
    case("binary_cross_entropy:smoothing=0.2", column(z), y, -soft * np.log(p) - (1 - soft) * np.log(1 - p), p)
    case("focal:gamma=2,alpha=0.25", column(z), y, np.where(y == 1, -0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p)), p)
    case("focal:gamma=0.5", column(z), y, np.where(y == 1, -((1 - p) ** 0.5) * np.log(p), -(p**0.5) * np.log(1 - p)), p)
    logits, k = np.array([[1.0, 2, 3], [0.5, -1, 0]]), np.array([2, 0])
    soft = 0.7 * np.eye(3)[k] + 0.1
    case("softmax_cross_entropy:classes=3,smoothing=0.3", logits, k, -(soft * special.log_softmax(logits, 1)).sum(1), special.softmax(logits, 1))
    f, b, rank = np.array([0.4, -1.0, 2.0]), np.array([1.0, 0, -1]), np.array([2, 0, 3])
    logits = f[:, None] + b
    above = special.expit(logits)
    events = rank[:, None] > np.arange(3)
    rows = -np.log(np.where(events, above, 1 - above)).sum(1)
    edges = np.hstack([np.ones((3, 1)), above, np.zeros((3, 1))])
    case("coral:classes=4", logits, rank, rows, -np.diff(edges, axis=1))
    case("coral:classes=4,predicts=rank", logits, rank, rows, (-np.diff(edges, axis=1)) @ np.arange(4))
    free = np.array([[0.4, 1.0, -0.3], [-1.0, 0.0, 2.0], [2.0, -3.0, 0.5]])
    above = special.expit(np.cumsum(np.hstack([free[:, :1], -np.log(1 + np.exp(free[:, 1:]))]), 1))
    case("coral:classes=4,ordered=true,predicts=rank", free, rank, -np.log(np.where(events, above, 1 - above)).sum(1), above.sum(1))


# ---- likelihoods -------------------------------------------------------------------------------------------------------------------------------------------
def tweedie_density(y, mean, phi, power):
    """log of Σ_n Poisson(n) · Gamma(y; n amounts)."""
    rate, shape, scale = mean ** (2 - power) / (phi * (2 - power)), (2 - power) / (power - 1), phi * (power - 1) * mean ** (power - 1)
    if y == 0:
        return -rate
    n = np.arange(1, 20000)
    return special.logsumexp(stats.poisson.logpmf(n, rate) + stats.gamma.logpdf(y, n * shape, scale=scale))


def likelihoods():
    eta, y = np.array([0.3, -2.0, 3.0, 1.0, 4.6]), np.array([0.0, 1, 30, 2, 100])
    case("poisson", column(eta), y, -stats.poisson.logpmf(y, np.exp(eta)), np.exp(eta))
    case("poisson:full=false", column(eta), y, np.exp(eta) - y * eta, np.exp(eta))

    eta, y = np.array([0.3, -1.0, 2.0, 1.0, 0.5]), np.array([0.0, 1.5, 9, 0.01, 1.7])
    for power in (1.2, 1.5, 1.9):
        mean = np.exp(eta)
        deviance = [2 * integrate.quad(lambda t: (b - t) * t**-power, m, b, epsabs=1e-13, epsrel=1e-13)[0] if b > 0 else 2 * m ** (2 - power) / (2 - power)
                    for m, b in zip(mean, y)]
        case(f"tweedie:power={power},form=deviance", column(eta), y, deviance, mean, 1e-9)
        case(f"tweedie:power={power}", column(eta), y, -y * mean ** (1 - power) / (1 - power) + mean ** (2 - power) / (2 - power), mean)
        for phi in (0.02, 0.7, 30):
            case(f"tweedie:power={power},form=likelihood,dispersion={phi}", column(eta), y,
                 [-tweedie_density(b, m, phi, power) for m, b in zip(mean, y)], mean, 1e-6)
        s = np.array([0.5, -3.0, -1.0, 2.0, -6.0])
        case(f"tweedie:power={power},form=likelihood", np.stack([eta, s], 1), y,
             [-tweedie_density(b, m, p, power) for m, b, p in zip(mean, y, np.log(1 + np.exp(s)))], mean, 1e-6)

    y, s = np.array([1.3, 1.5, 9, 0.01, 1.7]), np.array([0.5, -3.0, 4.0, 2.0, 60.0])
    mean, k = np.exp(eta), np.log(1 + np.exp(s))
    gamma = -stats.gamma.logpdf(y, k, scale=mean / k)
    case("gamma", np.stack([eta, s], 1), y, gamma, mean)
    case("gamma:shape=3", column(eta), y, -stats.gamma.logpdf(y, 3, scale=mean / 3), mean)
    a = np.array([1.0, -2.0, 0.0, 0.3, 5.0])
    p, zero = special.expit(a), np.array([False, True, False, True, False])
    event = np.where(zero, -np.log(1 - p), -np.log(p))
    case("zero_inflated_gamma", np.stack([a, eta, s], 1), np.where(zero, 0, y), event + np.where(zero, 0, gamma), p * mean)

    mu, s = np.array([0.3, -1.0, 2.0, 1.0, 0.5]), np.array([0.5, -3.0, 1.0, 2.0, 0.0])
    sigma = np.log(1 + np.exp(s))
    distributions = stats.lognorm(s=sigma, scale=np.exp(mu))
    case("log_normal", np.stack([mu, s], 1), y, -distributions.logpdf(y), distributions.mean())
    case("log_normal:predicts=median", np.stack([mu, s], 1), y, -distributions.logpdf(y), distributions.median())
    rows = event - np.where(zero, 0, distributions.logpdf(y))
    outputs, labels = np.stack([a, mu, s], 1), np.where(zero, 0, y)
    case("ziln", outputs, labels, rows, p * distributions.mean())
    level = (0.5 - (1 - p)) / p  # of the median among the positive
    case("ziln:predicts=median", outputs, labels, rows, np.where(level > 0, distributions.ppf(np.clip(level, 1e-9, 1)), 0))
    held = np.minimum(sigma, 1.0)
    held_rows = -np.where(zero, 0, stats.lognorm.logpdf(y, s=held, scale=np.exp(mu))) * len(y) / (~zero).sum()
    case("ziln:like=easy_rec,max_sigma=1,event_weight=2", outputs, labels, 2 * event + held_rows + 0.01 * mu**2 + 0.01 * s**2, p * np.exp(mu + held**2 / 2))


# ---- watch time --------------------------------------------------------------------------------------------------------------------------------------------
def softplus_inverse(x):
    return np.log(np.expm1(x))


def watch_time():
    o, t = np.array([0.5, -1.0, 0.0, 3.0]), np.array([30.0, 5.0, 0.0, 0.25])
    odds = np.exp(o)
    yes, no = -t * np.log(odds / (1 + odds)), np.log(1 + odds)
    case("weighted_logistic:form=odds", column(o), t, np.where(t > 0, yes, no), odds)
    case("weighted_logistic", column(o), t, yes + no, odds)

    points, beyond = np.array([2.0, 5, 10, 30]), np.array([[0.9, 0.6, 0.4, 0.1], [0.5, 0.55, 0.2, 0.3], [0.99, 0.98, 0.9, 0.5]])
    t = np.array([7.0, 0.0, 42.0])
    log_loss = [-np.mean([np.log(p) if x > s else np.log(1 - p) for p, s in zip(row, points)]) for row, x in zip(beyond, t)]
    restored = [integrate.quad(lambda x: row[np.searchsorted(points, x)], 0, 30, points=points[:-1])[0] for row in beyond]  # the area under the steps
    huber = [special.huber(3.0, r - x) for r, x in zip(restored, t)]
    growth = [sum(max(b - a, 0) for a, b in zip(row, row[1:])) for row in beyond]
    rows = np.array(log_loss) + 0.5 * np.array(huber) + 0.25 * np.array(growth)
    case("cread:splits=4,restoration=0.5,delta=3,ordinal=0.25,points=2;5;10;30", special.logit(beyond), t, rows, restored, 1e-9)

    edges, mids = np.array([1.0, 2, 4, 7, 11, 16, 30]), np.array([0.4, 1.5, 3, 5, 9, 14, 20, 50])
    left = np.array([[0.6, 0.7, 0.2, 0.5, 0.9, 0.35, 0.15], [0.1, 0.5, 0.45, 0.3, 0.8, 0.25, 0.6]])
    t, rows, means = np.array([5.5, 40.0]), [], []
    for node_left, x in zip(left, t):
        steps, chances = [], {}

        def descend(node, low, high, chance):  # the leaves low … high − 1
            if high - low == 1:
                chances[low] = chance
                return
            middle = (low + high) // 2
            leaf = np.searchsorted(edges, x)
            if low <= leaf < high:
                steps.append(-np.log(node_left[node] if leaf < middle else 1 - node_left[node]))
            descend(2 * node + 1, low, middle, chance * node_left[node])
            descend(2 * node + 2, middle, high, chance * (1 - node_left[node]))

        descend(0, 0, 8, 1.0)
        leaf = stats.rv_discrete(values=(np.arange(8), [chances[k] for k in range(8)]))
        mean, square = leaf.expect(lambda k: mids[k.astype(int)]), leaf.expect(lambda k: mids[k.astype(int)] ** 2)
        rows.append(sum(steps) / 7 + 0.3 * (mean - x) ** 2 + 0.2 * np.sqrt(square - mean**2))
        means.append(mean)
    texts = ";".join(f"{edge:g}" for edge in edges), ";".join(f"{mid:g}" for mid in mids)
    case(f"tpm:depth=3,value=0.3,deviation=0.2,edges={texts[0]},mids={texts[1]}", special.logit(left), t, rows, means, 1e-9)

    logits = np.array([[0.1, 0.5, -0.2, 0.0, 1.0, -1.0, 0.3, 2.0], [1.0, 0, 0, 0, 0, 0, 0, -3.0]])
    chosen = [stats.rankdata([*edges, x], method="min")[-1].astype(int) - 1 for x in t]
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    case(f"bucket_softmax:buckets=8,edges={texts[0]},mids={texts[1]}", logits, t, [-np.log(p[k]) for p, k in zip(softmax, chosen)], softmax @ mids)


def mixtures():
    prior = special.softmax(np.array([[0.5, -0.5], [2.0, 0.0]]), 1)
    mean, sigma, y = np.array([[2.0, 6], [-1, 3]]), np.array([[1.0, 2], [0.25, 4]]), np.array([2.0, 5.0])
    density = (prior * stats.norm(mean, sigma).pdf(y[:, None])).sum(1)
    case("gaussian_mixture:components=2", np.hstack([np.log(prior), mean, softplus_inverse(sigma)]), y, -np.log(density), (prior * mean).sum(1))

    prior = special.softmax(np.array([[0.0, 0.5, -0.5], [1.0, 1.5, -2.0]]), 1)
    rate, mean, sigma = np.array([0.8, 0.5]), np.array([[2.0, 6], [2.5, 9]]), np.array([[1.0, 2], [3.0, 8]])
    outputs = np.hstack([np.log(prior), column(softplus_inverse(rate - 1e-6)), softplus_inverse(mean - 1 / column(rate)), softplus_inverse(sigma)])
    cut = stats.truncnorm(-mean / sigma, np.inf, mean, sigma)
    density = prior[:, 0] * stats.expon(scale=1 / rate).pdf(y) + (prior[:, 1:] * cut.pdf(y[:, None])).sum(1)
    entropy = stats.entropy(prior, axis=1)
    for truncated, centers in ((True, cut.mean()), (False, mean)):
        expected = prior[:, 0] / rate + (prior[:, 1:] * centers).sum(1)
        rows = -np.log(density) - 0.1 * entropy + 0.7 * np.abs(expected - y)
        flag = "" if truncated else ",truncated_mean=false"
        case(f"exponential_gaussian_mixture:components=2,regression=0.7{flag}", outputs, y, rows, expected, 1e-9)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    numbers()
    classes()
    likelihoods()
    watch_time()
    mixtures()
    path = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "losses" / "losses.json"
    if not arguments.check:
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"cases": [\n' + ",\n".join("  " + json.dumps(entry) for entry in CASES) + "\n]}\n")
        return
    there = json.loads(path.read_text())["cases"]
    assert [e["loss"] for e in there] == [e["loss"] for e in CASES], "other cases"
    for old, new in zip(there, CASES):
        for key in ("outputs", "labels", "rows", "predictions"):
            assert (key in old) == (key in new), (old["loss"], key)
            if key in new:
                np.testing.assert_allclose(np.ravel(old[key]), np.ravel(new[key]), rtol=new["tolerance"] / 10, atol=new["tolerance"] / 10, err_msg=old["loss"])


if __name__ == "__main__":
    main()

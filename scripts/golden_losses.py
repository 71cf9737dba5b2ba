"""Writes tests/golden/losses/losses.json: what losses, their predictions, the Box-Cox transform and calibrators are by their definitions, computed by numpy and
scipy in float64.

    python3 -m venv venv && venv/bin/pip install -r scripts/golden_requirements.txt
    venv/bin/python scripts/golden_losses.py            # --check: compares with the file that is there and writes nothing

tests/loss/numbers_test.cpp reads it; tests/golden/README.md says what a case holds.
Nothing here is taken from the library's C++: likelihoods are scipy.stats' densities, the Tweedie density is the mixture of gamma densities over a Poisson number
of them, deviances are integrals of their definition.
"""
import argparse
import json
import pathlib

import numpy as np
from scipy import integrate, optimize, special, stats

CASES = []
TRANSFORMS = []
CALIBRATORS = []


def floats(values):
    """Numbers as Python prints them, so that the file is the same on every run."""
    return [float(x) for x in np.ravel(values)]


def case(loss, outputs, labels, rows, predictions=None, tolerance=1e-10, others=None, events=None, context=None):
    """One case; others are outputs of other tasks, events their labels, context columns, all by name."""
    entry = {"loss": loss, "outputs": [floats(row) for row in np.atleast_2d(np.asarray(outputs, float))], "labels": floats(labels), "rows": floats(rows)}
    for key, columns in (("others", others), ("events", events), ("context", context)):
        if columns:
            entry[key] = {name: [floats(row) for row in values] if key == "others" else floats(values) for name, values in columns.items()}
    if predictions is not None:
        entry["predictions"] = floats(predictions)
    entry["tolerance"] = tolerance
    CASES.append(entry)


def column(values):
    return np.asarray(values, float)[:, None]


# ---- numbers, events, classes ------------------------------------------------------------------------------------------------------------------------------
def numbers():
    x, y = np.array([0.6, -0.7, 3.5, 0.8, 2.0]), np.array([1.0, 1.2, 0.0, 7.0, 2.0])
    e = x - y
    case("squared", column(x), y, np.square(e), x)
    case("huber", column(x), y, special.huber(1, e), x)
    case("huber:delta=3", column(x), y, special.huber(3, e), x)
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

    tables, levels = np.array([[0.0, 2, 2, 2, 5, 9], [0, 10, 20, 40, 60, 61]]), np.linspace(0, 1, 6)
    x, t, duration = np.array([0.55, 0.3, 1.2, -0.5, 0.71]), np.array([3.5, 2.0, 45.0, 70.0, -1.0]), np.array([10.0, 50, 51, 90, 1e6])
    mine = tables[(duration > 50).astype(int)]
    tied = [np.mean(levels[table == b]) if b in table else np.interp(b, table, levels) for table, b in zip(mine, t)]
    case("d2q:duration=length,points=6,edges=50,tables=" + ";".join(f"{q:g}" for q in tables.ravel()), column(x), t, (x - tied) ** 2,
         [np.interp(a, levels, table) for table, a in zip(mine, x)], context={"length": duration})

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


# ---- terms between tasks -----------------------------------------------------------------------------------------------------------------------------------
def log_loss(y, p):
    return -special.xlogy(y, p) - special.xlog1py(1 - y, -p)


def between_tasks():
    z, click, pay = np.array([0.3, -2.0, 4.0, 1.0]), np.array([-1.0, 0.5, 3.0, -2.5]), np.array([2.0, -0.5, 0.1, 1.0])
    y, o, column_p = np.array([1.0, 0, 0.25, 0]), np.array([1.0, 0, 1, 1]), np.array([0.5, 0.9, 0.02, 0.3])
    p, c, b = special.expit(z), special.expit(click), special.expit(pay)
    both = {"click": column(click), "pay": column(pay)}
    case("entire_space:given=click", column(z), y, log_loss(y, p * c), p * c, others={"click": column(click)})
    case("entire_space:given=click/pay", column(z), y, log_loss(y, p * c * b), p * c * b, others=both)
    case("entire_space:given=pay,predicts=conditional", column(z), y, log_loss(y, p * b), p, others=both)

    by_task, by_column = o * np.minimum(1 / c, 4), o * np.minimum(1 / np.maximum(column_p, 0.05), 15)
    case("inverse_propensity:given=click,clip=4", column(z), y, by_task * log_loss(y, p), p, others={"click": column(click)}, events={"click": o})
    seen = {"events": {"click": o}, "context": {"chance": column_p}}
    case("inverse_propensity:given=click,propensity=chance,floor=0.05", column(z), y, by_column * log_loss(y, p), p, **seen)
    case("inverse_propensity:propensity=chance,clip=100", column(z), y, log_loss(y, p) / column_p, p, context={"chance": column_p})
    batch = o * len(o) * np.minimum(1 / (column_p * o.sum()), 3)
    case("inverse_propensity:given=click,propensity=chance,clip=3,batch_normalised=true", column(z), y, batch * log_loss(y, p), p, **seen)

    r, e = np.array([0.5, -1.0, 2.0, 0.1]), log_loss(y, p)
    for imputed, guess in (("softplus", np.log(1 + np.exp(r))), ("sigmoid", special.expit(r))):
        rows = guess + by_column * (e - guess) + 0.3 * by_column * (e - guess) ** 2
        for joint in ("true", "false"):
            options = f"given=click,propensity=chance,floor=0.05,imputed={imputed},imputation_weight=0.3,joint={joint}"
            case(f"doubly_robust:{options}", np.stack([z, r], 1), y, rows, p, **seen)

    case("order_calibration:after=click/pay", column(z), y, np.maximum(p - c, 0) + np.maximum(p - b, 0), p, others=both)

    for heat in (1, 2.5):
        q, s = special.expit(click / heat), special.expit(z / heat)
        case(f"distillation:teacher=click,temperature={heat}", column(z), y, heat**2 * (special.rel_entr(q, s) + special.rel_entr(1 - q, 1 - s)), p,
             others={"click": column(click)})
        student, teacher = np.array([[1.0, 2, 3], [0.5, -1, 0]]), np.array([[0.0, 2, -1], [0.5, -1, 0]])
        case(f"distillation:teacher=kind,form=multiclass,classes=3,temperature={heat}", student, [0, 0],
             heat**2 * stats.entropy(special.softmax(teacher / heat, 1), special.softmax(student / heat, 1), axis=1), special.softmax(student, 1),
             others={"kind": teacher})
    case("distillation:teacher=time,form=squared", column(z), y, np.square(z - click), z, others={"time": column(click)})

    x, liked, user = np.array([0.3, -2.0, 4.0, 1.0, 0.2]), np.array([1.0, 0, 0.3, 5, 5.5]), np.array([1.0, 1, 1, 2, 2])
    for margin in (0, 0.4):
        pairs = [(i, j) for i in range(5) for j in range(5) if user[i] == user[j] and liked[i] > liked[j] + margin]
        rows = np.zeros(5)
        for pair in pairs:
            rows[list(pair)] += 0.5 * 5 / len(pairs) * -np.log(special.expit(x[pair[0]] - x[pair[1]]))
        case(f"pairwise_ranking:group=user,margin={margin}", column(x), liked, rows, x, context={"user": user})


# ---- transforms of labels, calibrators ---------------------------------------------------------------------------------------------------------------------
def transforms():
    y = np.array([0.0, 0.2, 1, 3.5, 40, 1e4])
    for shift, power in ((1, 0), (1, 0.3), (0.5, -0.4), (2, 1.7)):
        z = stats.boxcox(y + shift, power)
        between = (z[1:] + z[:-1]) / 2
        TRANSFORMS.append({"transform": f"box_cox:shift={shift},lambda={power}", "labels": floats(y), "targets": floats(z), "given": floats(between),
                           "back": floats(special.inv_boxcox(between, power) - shift), "tolerance": 1e-9})
    generator = np.random.default_rng(5)
    for label in (generator.gamma(2, 3, 60), np.exp(generator.normal(1, 0.7, 60)), generator.uniform(0, 9, 60)):
        label = np.round(label, 3)
        power = optimize.minimize_scalar(lambda a: -stats.boxcox_llf(a, label + 1), bracket=(-1, 1), options={"xtol": 1e-10}).x
        np.testing.assert_allclose(power, stats.boxcox_normmax(label + 1, method="mle"), atol=1e-5)
        TRANSFORMS.append({"transform": "box_cox", "labels": floats(label), "lambda": float(power), "tolerance": 1e-5})


def pooled(x, y, w):
    """The non-decreasing fit at the distinct x: their means, pooled while one is not above the one before."""
    at, index = np.unique(x, return_inverse=True)
    pools = []
    for mass, total in zip(np.bincount(index, w), np.bincount(index, w * y)):
        pools.append([mass, total, 1])
        while len(pools) > 1 and pools[-2][1] / pools[-2][0] >= pools[-1][1] / pools[-1][0]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last)]
    values = np.concatenate([np.full(count, total / mass) for mass, total, count in pools])
    weight = np.bincount(index, w)
    np.testing.assert_allclose(values, optimize.isotonic_regression(np.bincount(index, w * y) / weight, weights=weight).x, rtol=1e-12, atol=1e-12)
    return at, values


def calibrators():
    generator = np.random.default_rng(6)
    given = np.array([0.0005, 0.1, 0.35, 0.5, 0.77, 0.99])
    for size in (12, 80):
        p = np.round(generator.uniform(0.02, 0.98, size), 2)
        y = (generator.uniform(size=size) < special.expit(0.6 * special.logit(p) + 0.4)).astype(float)
        w = np.round(generator.uniform(0.5, 2, size), 2)
        data = {"predictions": floats(p), "labels": floats(y), "weights": floats(w), "given": floats(given)}
        events, others = (w * y).sum(), (w * (1 - y)).sum()
        target, z = np.where(y == 1, (events + 1) / (events + 2), 1 / (others + 2)), special.logit(p)
        excess = lambda a, b: w * (special.expit(a * z + b) - target)
        found = optimize.root(lambda t: [excess(*t).sum(), (excess(*t) * z).sum()], [1.0, 0.0], tol=1e-13)
        assert found.success and found.x[0] > 0, found
        a, b = found.x
        CALIBRATORS.append({"calibrator": "platt", **data, "statistics": {"a": float(a), "b": float(b)},
                            "calibrated": floats(special.expit(a * special.logit(given) + b)), "tolerance": 1e-8})
        b = optimize.brentq(lambda t: excess(1.0, t).sum(), -20, 20, xtol=1e-14, rtol=1e-14)
        CALIBRATORS.append({"calibrator": "platt:slope=false", **data, "statistics": {"a": 1.0, "b": float(b)},
                            "calibrated": floats(special.expit(special.logit(given) + b)), "tolerance": 1e-10})
        CALIBRATORS.append({"calibrator": "isotonic", **data, "calibrated": floats(np.interp(given, *pooled(p, y, w))), "tolerance": 1e-12})


def compare(old, new, name, tolerance):
    """Same keys, and numbers within a tenth of the tolerance that the test has."""
    if isinstance(new, dict):
        assert old.keys() == new.keys(), name
        for key in new:
            compare(old[key], new[key], name, tolerance)
    elif isinstance(new, str):
        assert old == new, name
    else:
        np.testing.assert_allclose(np.ravel(old), np.ravel(new), rtol=tolerance / 10, atol=tolerance / 10, err_msg=name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    numbers()
    classes()
    likelihoods()
    watch_time()
    mixtures()
    between_tasks()
    transforms()
    calibrators()
    parts = {"cases": CASES, "transforms": TRANSFORMS, "calibrators": CALIBRATORS}
    path = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "losses" / "losses.json"
    if not arguments.check:
        path.parent.mkdir(exist_ok=True)
        text = ",\n".join(f'"{key}": [\n' + ",\n".join("  " + json.dumps(entry) for entry in entries) + "\n]" for key, entries in parts.items())
        path.write_text("{" + text + "}\n")
        return
    there = json.loads(path.read_text())
    assert there.keys() == parts.keys(), there.keys()
    for key, entries in parts.items():
        assert len(there[key]) == len(entries), key
        for old, new in zip(there[key], entries):
            compare(old, new, next(iter(new.values())), new["tolerance"])


if __name__ == "__main__":
    main()

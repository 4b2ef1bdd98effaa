"""Failure probabilities: evaluations of the network beside splitting, plain sampling, OpenTURNS and pystra.

OpenTURNS and pystra meet problems of known answer (`failures.exact_case`); errors are root mean squares of log p over
seeds. FORM has no error to choose. On MNIST the others have our stated errors, at which their cost is compared.
"""

from functools import partial

import numpy as np
import openturns as ot
import pandas as pd
import pystra
from bench import beside

from rpa.experiments import failures
from rpa.inputs import Gaussian
from rpa.patterns.regions import jacobians
from rpa.reliability.failure import failure_probability
from rpa.reliability.splitting import splitting
from rpa.subjects import datasets, train

RTOL = 0.05
SEEDS = range(5)
BLOCKS = 2_000  # of 1,000 points, or of one direction: there a method stops that misses RTOL


class Margin:
    """z -> largest score of another class less that of the label, x = image + sigma z; evaluations are counted."""

    def __init__(self, case):
        self.case, self.count = case, 0

    def __call__(self, z):
        z = np.atleast_2d(z)
        self.count += len(z)
        scores = self.case["net"](self.case["image"] + self.case["sigma"] * z)
        return scores[:, 1:].max(axis=1) - scores[:, 0]

    def gradient(self, z):
        x = self.case["image"] + self.case["sigma"] * np.asarray(z)
        (rows,) = jacobians(self.case["net"], self.case["net"].patterns(x[None]))
        best = 1 + self.case["net"](x[None])[0, 1:].argmax()
        return self.case["sigma"] * (rows[best] - rows[0])[:, None]


SAMPLERS = {"subset sampling": ot.SubsetSampling, "NAIS": ot.NAIS, "directional sampling": ot.DirectionalSampling}


def turns(case, method, seed):
    """(log p, evaluations) of one of OpenTURNS' methods; FORM's search starts beside the mean."""
    ot.RandomGenerator.SetSeed(seed)
    margin, d = Margin(case), len(case["image"])
    function = ot.PythonFunction(
        d, 1, func_sample=lambda z: margin(np.array(z))[:, None], gradient=lambda z: margin.gradient(z)
    )
    event = ot.ThresholdEvent(ot.CompositeRandomVector(function, ot.RandomVector(ot.Normal(d))), ot.Greater(), 0.0)
    if method in ("FORM", "importance sampling"):
        solver = ot.NLopt("LD_SLSQP")  # AbdoRackwitz does not converge on kinks
        solver.setStartingPoint([0.01] * d)
        solver.setCheckStatus(False)
        form = ot.FORM(solver, event)
        form.run()
        if method == "FORM":
            return np.log(form.getResult().getEventProbability()), margin.count
        algorithm = ot.PostAnalyticalImportanceSampling(form.getResult())
    else:
        algorithm = SAMPLERS[method](event)
    if method in ("subset sampling", "NAIS"):  # points a level; no error can be requested, and NAIS' time is quadratic
        algorithm.setBlockSize(1000)
        algorithm.setMaximumOuterSampling(1 if method == "NAIS" else 10)
    else:
        algorithm.setBlockSize(1 if method == "directional sampling" else 1000)
        algorithm.setMaximumOuterSampling(BLOCKS)
        algorithm.setMaximumCoefficientOfVariation(RTOL)
    algorithm.run()
    return np.log(max(algorithm.getResult().getProbabilityEstimate(), 1e-300)), margin.count


def form_of_pystra(case):
    margin, d = Margin(case), len(case["image"])
    names = [f"z{i}" for i in range(d)]
    limit = pystra.LimitState(lambda **z: -margin(np.stack([np.ravel(value) for value in z.values()], axis=-1)))
    model = pystra.StochasticModel()
    for name in names:
        model.addVariable(pystra.Normal(name, 0.0, 1.0))
    options = pystra.AnalysisOptions()
    options.setPrintOutput(False)
    form = pystra.Form(analysis_options=options, stochastic_model=model, limit_state=limit)
    form.run()
    return np.log(float(np.squeeze(form.getFailure()))), margin.count


def exact_problems():
    planar, (moons, _) = train.load_network("moons_2-8-8-1"), datasets.moons(200, noise=0.1, seed=0)
    for copies, target in ((2, 1e-3), (2, 1e-6), (10, 1e-4), (10, 1e-8)):
        places = np.random.default_rng(copies).choice(len(moons), copies, replace=False)
        case = failures.exact_case(planar, moons[places], target, 0)
        inputs = Gaussian(case["image"], case["sigma"] ** 2)
        ours = [failure_probability(case["net"], inputs, label=0, seed=seed, rtol=RTOL) for seed in SEEDS]
        rms = lambda logs: max(float(np.sqrt(np.mean((np.array(logs) - case["log_p"]) ** 2))), 1e-12)
        mine = float(np.mean([each.n for each in ours])), rms([each.log_p for each in ours])
        size = f"{2 * copies} inputs, p = {np.exp(case['log_p']):.0e}"
        names = ["FORM", "importance sampling", *SAMPLERS]
        rivals = {f"OpenTURNS, {name}": partial(turns, case, name) for name in names}
        rivals["pystra, FORM"] = lambda _, case=case: form_of_pystra(case)
        for name, method in rivals.items():
            logs, counts = zip(*(method(seed) for seed in SEEDS))
            theirs = float(np.mean(counts)), rms(logs)
            yield beside("known failure", size, "evaluations", mine, name, theirs, scales="FORM" not in name)


def digits():
    for layers in ("784-32-32-10", "784-128-64-10"):
        net, image = train.load_network(f"mnist_{layers}"), np.float64(datasets.mnist("test").rows[0])
        for sigma in (0.06, 0.1, 0.2):
            inputs, names = Gaussian(image, sigma**2), dict(network=layers, image=0, sigma=sigma)
            both = failure_probability(net, inputs, rtol=RTOL), splitting(net, inputs)
            ours, rival = (pd.DataFrame([failures.row(each, **names)]) for each in both)
            cost = failures.costs(ours, rival, RTOL).iloc[0]
            size = f"MNIST {layers}, sigma {sigma}, p = {10**cost.log10_p:.0e}"
            for peer in ("splitting", "plain sampling"):
                theirs = float(cost[peer]), RTOL
                yield beside("class changes", size, "evaluations", (float(cost.ours), RTOL), peer, theirs)


def main():
    yield from exact_problems()
    yield from digits()

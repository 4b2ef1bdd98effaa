"""Failure probabilities: evaluations of the network beside splitting, plain sampling, OpenTURNS and pystra.

OpenTURNS and pystra meet problems of known answer (`failures.exact_case`); errors are root mean squares of log p over
seeds. FORM has no error to choose. On MNIST the others have our stated errors, at which their cost is compared.
"""

from functools import partial
from itertools import product

import numpy as np
import openturns as ot
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
# OpenTURNS' samplers with the size of a block and the number of blocks at which one stops that misses RTOL. For subset
# sampling and NAIS these are the points of a level: no error can be requested, and NAIS' time is quadratic.
SAMPLERS = {
    "importance sampling": (ot.PostAnalyticalImportanceSampling, 1000, 2000),
    "subset sampling": (ot.SubsetSampling, 1000, 10),
    "NAIS": (ot.NAIS, 1000, 1),
    "directional sampling": (ot.DirectionalSampling, 1, 2000),
}


class Margin:
    """z -> largest score of another class less that of class 0, x = image + sigma z; evaluations are counted."""

    def __init__(self, net, image, sigma):
        self.net, self.image, self.sigma, self.dim, self.count = net, image, sigma, len(image), 0

    def __call__(self, z):
        self.count += len(z)
        scores = self.net(self.image + self.sigma * z)
        return scores[:, 1:].max(axis=1) - scores[:, 0]

    def gradient(self, z):
        x = self.image + self.sigma * np.array([z])
        (rows,) = jacobians(self.net, self.net.patterns(x))
        return self.sigma * (rows[1 + self.net(x)[0, 1:].argmax()] - rows[0])[:, None]


def turns(method, margin):
    """P(margin >= 0) by FORM, or by a sampler, of OpenTURNS."""
    values = lambda z: margin(np.array(z))[:, None]
    function = ot.PythonFunction(margin.dim, 1, func_sample=values, gradient=margin.gradient)
    vector = ot.CompositeRandomVector(function, ot.RandomVector(ot.Normal(margin.dim)))
    start = event = ot.ThresholdEvent(vector, ot.Greater(), 0.0)
    if method in ("FORM", "importance sampling"):
        solver = ot.NLopt("LD_SLSQP")  # AbdoRackwitz does not converge on kinks
        solver.setStartingPoint([0.01] * margin.dim)  # beside the mean
        solver.setCheckStatus(False)
        form = ot.FORM(solver, event)
        form.run()
        start = form.getResult()
    if method == "FORM":
        return start.getEventProbability()
    sampler, size, blocks = SAMPLERS[method]
    algorithm = sampler(start)
    algorithm.setBlockSize(size)
    algorithm.setMaximumOuterSampling(blocks)
    if method not in ("subset sampling", "NAIS"):
        algorithm.setMaximumCoefficientOfVariation(RTOL)
    algorithm.run()
    return algorithm.getResult().getProbabilityEstimate()


def form_of_pystra(margin):
    limit = pystra.LimitState(lambda **z: -margin(np.stack([np.ravel(value) for value in z.values()], axis=-1)))
    model = pystra.StochasticModel()
    for i in range(margin.dim):
        model.addVariable(pystra.Normal(f"z{i}", 0.0, 1.0))
    options = pystra.AnalysisOptions()
    options.setPrintOutput(False)
    form = pystra.Form(analysis_options=options, stochastic_model=model, limit_state=limit)
    form.run()
    return float(np.squeeze(form.getFailure()))


def reliability():
    peers = {f"OpenTURNS, {name}": partial(turns, name) for name in ("FORM", *SAMPLERS)}
    peers["pystra, FORM"] = form_of_pystra
    planar, (moons, _) = train.load_network("moons_2-8-8-1"), datasets.moons(200, noise=0.1, seed=0)
    for copies, target in ((2, 1e-3), (2, 1e-6), (10, 1e-4), (10, 1e-8)):
        places = np.random.default_rng(copies).choice(len(moons), copies, replace=False)
        net, image, _, sigma, log_p = failures.exact_case(planar, moons[places], target, 0).values()
        rms = lambda logs: max(float(np.sqrt(np.mean((np.array(logs) - log_p) ** 2))), 1e-12)
        inputs = Gaussian(image, sigma**2)
        found = [failure_probability(net, inputs, label=0, seed=seed, rtol=RTOL) for seed in SEEDS]
        ours = np.mean([each.n for each in found]), rms([each.log_p for each in found])
        size = f"{2 * copies} inputs, p = {np.exp(log_p):.0e}"
        for name, method in peers.items():
            margin, logs = Margin(net, image, sigma), []
            for seed in SEEDS:
                ot.RandomGenerator.SetSeed(seed)
                logs.append(np.log(max(method(margin), 1e-300)))
            theirs = margin.count / len(SEEDS), rms(logs)
            yield beside("known failure", size, ours, name, theirs, "evaluations", scales="FORM" not in name)

    image = np.float64(datasets.mnist("test").rows[0])
    for layers, sigma in product(("784-32-32-10", "784-128-64-10"), (0.06, 0.1, 0.2)):
        net, inputs = train.load_network(f"mnist_{layers}"), Gaussian(image, sigma**2)
        ours, rival = failure_probability(net, inputs, rtol=RTOL), splitting(net, inputs)
        split, plain = rival.n * (rival.rel_error / RTOL) ** 2, (1 - ours.p) / (ours.p * RTOL**2)
        size = f"MNIST {layers}, sigma {sigma}, p = {ours.p:.0e}"
        for peer, cost in (("splitting", split), ("plain sampling", plain)):
            yield beside("class changes", size, (ours.n, RTOL), peer, (cost, RTOL), "evaluations")

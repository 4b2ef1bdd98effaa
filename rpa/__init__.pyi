# The front door: what `import rpa` offers and where each name lives. Read by lazy_loader, by type checkers and by
# rpa.companion.provenance.
from . import companion as companion
from . import moments as moments
from . import parallel as parallel
from . import patterns as patterns
from . import polytopes as polytopes
from . import subjects as subjects
from .inputs import Gaussian as Gaussian
from .inputs import GaussianMixture as GaussianMixture
from .inputs import fit_mixture as fit_mixture
from .moments.attacks import noise_attack as noise_attack
from .moments.layerwise import layerwise as layerwise
from .moments.sensitivity import noise_map as noise_map
from .moments.two_stage import affine_relu_affine as affine_relu_affine
from .moments.two_stage import two_stage as two_stage
from .network import ReLUNetwork as ReLUNetwork
from .patterns.pmf import pattern_pmf as pattern_pmf
from .patterns.regions import Region as Region
from .patterns.regions import planar_regions as planar_regions
from .patterns.regions import region_at as region_at
from .patterns.regions import region_of as region_of
from .patterns.support import best_first as best_first
from .patterns.support import entropy_pruned as entropy_pruned
from .polytopes.polytope import orthant as orthant
from .polytopes.polytope import probabilities as probabilities
from .polytopes.polytope import probability as probability

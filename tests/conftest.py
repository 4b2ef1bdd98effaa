import os

# Two cores and many small matrices: threads inside a library cost more than they give. Set before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

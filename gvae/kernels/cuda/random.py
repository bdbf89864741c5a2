"""Declarations of random.cu. A kernel runs over blocks of 16 bytes, one thread each."""

from gvae.kernels.cuda.launch import elements, kernel

philox = kernel("random", "philox", "key: key, first_block: scalar uint64, out_words: uint32 B four", elements())
uniform = kernel("random", "uniform", "key: key, out: T size -> size", elements())
normal = kernel("random", "normal", "key: key, out: T size -> size", elements())
bernoulli = kernel("random", "bernoulli", "key: key, p: T size, out: T size -> size", elements())

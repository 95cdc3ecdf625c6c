"""Triton kernels, installed as ``uapfast.kernels``. They import only triton and torch; no policy here."""

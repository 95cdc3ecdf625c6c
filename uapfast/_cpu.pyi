"""CPU kernels on raw addresses; call them through uapfast.ops. Contracts: csrc/include/uapfast."""

def simd_levels() -> list[str]: ...
def simd_level() -> str: ...
def compiler() -> str: ...
def project_lp(
    source: int,
    target: int,
    dtype: int,
    rows: int,
    cols: int,
    source_stride: int,
    target_stride: int,
    eps: float,
    p: float,
    threads: int,
    level: int,
) -> None: ...
def deepfool_step(
    logits: int,
    grads: int,
    labels: int,
    step: int,
    nearest: int,
    dtype: int,
    batch: int,
    classes: int,
    size: int,
    logits_stride: int,
    grads_batch_stride: int,
    grads_class_stride: int,
    p: float,
    threads: int,
    level: int,
) -> None: ...

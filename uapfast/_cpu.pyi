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
def build_queries(
    images: int,
    uaps: int,
    assign: int,
    out: int,
    mean: int,
    std: int,
    dtype: int,
    count: int,
    perturbations: int,
    channels: int,
    pixels: int,
    t: float,
    channels_last: bool,
    clean: bool,
    threads: int,
    level: int,
) -> None: ...
def fingerprint_rows(
    logits: int,
    log_probs: int,
    labels: int,
    margins: int,
    top_log_probs: int,
    top_classes: int,
    rows: int,
    classes: int,
    top_k: int,
    threads: int,
    level: int,
) -> None: ...

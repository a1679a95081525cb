"""Triton kernels: group normalisation with SiLU over channels-last tensors, and GEGLU's gradient.

A channels-last tensor (N, C, H, W) lies in memory as N x (H W) x C. torch.compile's own code for group normalisation
walks along a group's pixels there, a few bytes at a time, and takes several times what the memory would need; these
kernels read tiles of pixels x channels, as they lie. Statistics are float32, merged by Chan's formula, so that a mean
far from zero costs no digits.

N: images, C: channels, S = H W: pixels of an image, G: groups of K = C / G channels.
"""

# ruff: noqa: ANN001, ANN201 - Triton reads the annotations of a kernel: those that it does not know are errors
import triton
import triton.language as tl

#: pixels and channels of a tile
PIXELS, CHANNELS = 128, 64
#: pixels that one program adds up at most, so many at a time
SPAN, STEP = 512, 32


@triton.jit
def moments(x, mean, squares, C, S, spans, L: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    """Per span and channel: the mean over its pixels, and the sum of squares about it. (N spans, C) each."""
    row, block = tl.program_id(0), tl.program_id(1)
    n, span = row // spans, row % spans
    c = block * B + tl.arange(0, B)
    held = c < C
    at = x + n.to(tl.int64) * S * C + c[None, :]
    begin = span * L
    # about the span's first pixel: sums of squares that are no larger than they have to be
    pivot = tl.load(x + n.to(tl.int64) * S * C + begin * C + c, mask=held, other=0.0).to(tl.float32)
    one, two = tl.zeros((P, B), tl.float32), tl.zeros((P, B), tl.float32)
    for first in range(0, L, P):
        p = begin + first + tl.arange(0, P)
        ok = (p < S)[:, None] & held[None, :]
        v = tl.load(at + p[:, None] * C, mask=ok, other=0.0).to(tl.float32)
        v = tl.where(ok, v - pivot[None, :], 0.0)
        one += v
        two += v * v
    count = tl.minimum(L, S - begin)
    m = tl.sum(one, 0) / count
    tl.store(mean + row * C + c, pivot + m, mask=held)
    tl.store(squares + row * C + c, tl.sum(two, 0) - count * m * m, mask=held)


@triton.jit
def group_moments(
    span_mean,
    span_squares,
    shift,
    mean,
    rstd,
    channel_mean,
    C,
    S,
    G,
    K,
    spans,
    eps,
    SHIFT: tl.constexpr,
    L: tl.constexpr,
    T: tl.constexpr,
    W: tl.constexpr,
):
    """Merge a group's spans: mean and 1 / standard deviation (N, G), and each channel's mean (N, C)."""
    row = tl.program_id(0)
    n, g = row // G, row % G
    t, w = tl.arange(0, T), tl.arange(0, W)
    c = g * K + w
    ok = (t < spans)[:, None] & (w < K)[None, :]
    at = (n * spans + t)[:, None] * C + c[None, :]
    m = tl.load(span_mean + at, mask=ok, other=0.0)
    q = tl.load(span_squares + at, mask=ok, other=0.0)
    count = tl.where(t < spans, tl.minimum(L, S - t * L), 0).to(tl.float32)
    own = tl.sum(m * count[:, None], 0) / S
    d = tl.where(ok, m - own[None, :], 0.0)
    squares = tl.sum(q + count[:, None] * d * d, 0)
    if SHIFT:
        own += tl.load(shift + n * C + c, mask=w < K, other=0.0).to(tl.float32)
    mu = tl.sum(tl.where(w < K, own, 0.0), 0) / K
    e = tl.where(w < K, own - mu, 0.0)
    variance = (tl.sum(squares, 0) + S * tl.sum(e * e, 0)) / (K * S)
    tl.store(mean + row, mu)
    tl.store(rstd + row, 1.0 / tl.sqrt(variance + eps))
    tl.store(channel_mean + n * C + c, own, mask=w < K)


@triton.jit
def normalise(
    x,
    shift,
    weight,
    bias,
    mean,
    rstd,
    y,
    C,
    S,
    G,
    K,
    tiles,
    SHIFT: tl.constexpr,
    SILU: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
):
    """y = act((x + shift - mean) rstd weight + bias)."""
    row, block = tl.program_id(0), tl.program_id(1)
    n, tile = row // tiles, row % tiles
    p, c = tile * P + tl.arange(0, P), block * B + tl.arange(0, B)
    held = c < C
    ok = (p < S)[:, None] & held[None, :]
    g = n * G + c // K
    scale = tl.load(rstd + g, mask=held, other=0.0) * tl.load(weight + c, mask=held, other=0.0).to(tl.float32)
    middle = tl.load(mean + g, mask=held, other=0.0)
    if SHIFT:
        middle -= tl.load(shift + n * C + c, mask=held, other=0.0).to(tl.float32)
    offset = tl.load(bias + c, mask=held, other=0.0).to(tl.float32)
    image = n.to(tl.int64) * S * C
    at = p[:, None] * C + c[None, :]
    z = tl.load(x + image + at, mask=ok, other=0.0).to(tl.float32)
    z = (z - middle[None, :]) * scale[None, :] + offset[None, :]
    if SILU:
        z = z * tl.sigmoid(z)
    tl.store(y + image + at, z.to(y.dtype.element_ty), mask=ok)


@triton.jit
def backward_sums(
    x,
    dy,
    shift,
    weight,
    bias,
    mean,
    rstd,
    sum_z,
    sum_zx,
    C,
    S,
    G,
    K,
    spans,
    SHIFT: tl.constexpr,
    SILU: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
):
    """Per span and channel: the sums over pixels of dz, and of dz times the normalised x. (N spans, C) each."""
    row, block = tl.program_id(0), tl.program_id(1)
    n, span = row // spans, row % spans
    c = block * B + tl.arange(0, B)
    held = c < C
    g = n * G + c // K
    r = tl.load(rstd + g, mask=held, other=0.0)
    middle = tl.load(mean + g, mask=held, other=0.0)
    if SHIFT:
        middle -= tl.load(shift + n * C + c, mask=held, other=0.0).to(tl.float32)
    scale = tl.load(weight + c, mask=held, other=0.0).to(tl.float32)
    offset = tl.load(bias + c, mask=held, other=0.0).to(tl.float32)
    image = n.to(tl.int64) * S * C
    one, two = tl.zeros((P, B), tl.float32), tl.zeros((P, B), tl.float32)
    begin = span * L
    for first in range(0, L, P):
        p = begin + first + tl.arange(0, P)
        ok = (p < S)[:, None] & held[None, :]
        at = p[:, None] * C + c[None, :]
        normal = tl.load(x + image + at, mask=ok, other=0.0).to(tl.float32)
        normal = (normal - middle[None, :]) * r[None, :]
        dz = tl.load(dy + image + at, mask=ok, other=0.0).to(tl.float32)
        if SILU:
            z = normal * scale[None, :] + offset[None, :]
            s = tl.sigmoid(z)
            dz = dz * s * (1.0 + z * (1.0 - s))
        one += dz
        two += dz * normal
    tl.store(sum_z + row * C + c, tl.sum(one, 0), mask=held)
    tl.store(sum_zx + row * C + c, tl.sum(two, 0), mask=held)


@triton.jit
def group_backward(
    span_z,
    span_zx,
    weight,
    mean,
    rstd,
    channel_mean,
    sum_z,
    sum_zx,
    group_z,
    group_zx,
    dshift,
    C,
    S,
    G,
    K,
    spans,
    T: tl.constexpr,
    W: tl.constexpr,
):
    """Merge a group's spans: per channel for weight and bias (N, C), per group for dx (N, G), dshift (N, C)."""
    row = tl.program_id(0)
    n, g = row // G, row % G
    t, w = tl.arange(0, T), tl.arange(0, W)
    c = g * K + w
    ok = (t < spans)[:, None] & (w < K)[None, :]
    at = (n * spans + t)[:, None] * C + c[None, :]
    z = tl.sum(tl.load(span_z + at, mask=ok, other=0.0), 0)
    zx = tl.sum(tl.load(span_zx + at, mask=ok, other=0.0), 0)
    scale = tl.load(weight + c, mask=w < K, other=0.0).to(tl.float32)
    all_z, all_zx = tl.sum(scale * z, 0) / (K * S), tl.sum(scale * zx, 0) / (K * S)
    r = tl.load(rstd + row)
    own = (tl.load(channel_mean + n * C + c, mask=w < K, other=0.0) - tl.load(mean + row)) * r
    tl.store(sum_z + n * C + c, z, mask=w < K)
    tl.store(sum_zx + n * C + c, zx, mask=w < K)
    tl.store(group_z + row, all_z)
    tl.store(group_zx + row, all_zx)
    tl.store(dshift + n * C + c, r * (scale * z - S * (all_z + own * all_zx)), mask=w < K)


@triton.jit
def backward_input(
    x,
    dy,
    shift,
    weight,
    bias,
    mean,
    rstd,
    group_z,
    group_zx,
    dx,
    C,
    S,
    G,
    K,
    tiles,
    SHIFT: tl.constexpr,
    SILU: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
):
    """dx = rstd (weight dz - group_z - normalised x group_zx)."""
    row, block = tl.program_id(0), tl.program_id(1)
    n, tile = row // tiles, row % tiles
    p, c = tile * P + tl.arange(0, P), block * B + tl.arange(0, B)
    held = c < C
    ok = (p < S)[:, None] & held[None, :]
    g = n * G + c // K
    r = tl.load(rstd + g, mask=held, other=0.0)
    middle = tl.load(mean + g, mask=held, other=0.0)
    if SHIFT:
        middle -= tl.load(shift + n * C + c, mask=held, other=0.0).to(tl.float32)
    scale = tl.load(weight + c, mask=held, other=0.0).to(tl.float32)
    a, b = tl.load(group_z + g, mask=held, other=0.0), tl.load(group_zx + g, mask=held, other=0.0)
    image = n.to(tl.int64) * S * C
    at = p[:, None] * C + c[None, :]
    normal = tl.load(x + image + at, mask=ok, other=0.0).to(tl.float32)
    normal = (normal - middle[None, :]) * r[None, :]
    dz = tl.load(dy + image + at, mask=ok, other=0.0).to(tl.float32)
    if SILU:
        z = normal * scale[None, :] + tl.load(bias + c, mask=held, other=0.0).to(tl.float32)[None, :]
        s = tl.sigmoid(z)
        dz = dz * s * (1.0 + z * (1.0 - s))
    out = r[None, :] * (scale[None, :] * dz - a[None, :] - normal * b[None, :])
    tl.store(dx + image + at, out.to(dx.dtype.element_ty), mask=ok)


@triton.jit
def geglu_forward(x, y, D, B: tl.constexpr):
    """x (R, 2 D) -> y (R, D) = x[:, :D] gelu(x[:, D:]); programs (R, blocks of D)."""
    r, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * B + tl.arange(0, B)
    ok = i < D
    value = tl.load(x + r * 2 * D + i, mask=ok, other=0.0).to(tl.float32)
    gate = tl.load(x + r * 2 * D + D + i, mask=ok, other=0.0).to(tl.float32)
    gate = gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + r * D + i, (value * gate).to(y.dtype.element_ty), mask=ok)


@triton.jit
def geglu_backward(x, dy, dx, D, B: tl.constexpr):
    """Both halves of dx (R, 2 D) at once: the error function is what this costs."""
    r, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * B + tl.arange(0, B)
    ok = i < D
    value = tl.load(x + r * 2 * D + i, mask=ok, other=0.0).to(tl.float32)
    gate = tl.load(x + r * 2 * D + D + i, mask=ok, other=0.0).to(tl.float32)
    d = tl.load(dy + r * D + i, mask=ok, other=0.0).to(tl.float32)
    phi = 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    slope = phi + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    tl.store(dx + r * 2 * D + i, (d * gate * phi).to(dx.dtype.element_ty), mask=ok)
    tl.store(dx + r * 2 * D + D + i, (d * value * slope).to(dx.dtype.element_ty), mask=ok)

"""Networks that keep something of the weights they had: reused, they must not answer with it."""

from __future__ import annotations

NETS = """
import contextvars, copy, functools, itertools
import torch
from torch import nn
from uapfast.models.nets import mlp_small

CACHE = {}
HIDDEN = contextvars.ContextVar("hidden")   # what it holds cannot be seen, and each thread has its own
COUNT = itertools.count()

class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.n = mlp_small(1, 10, 8)
        self.a = nn.Parameter(torch.zeros(10))
    def weights(self):
        return self.n[3].weight
    def forward(self, x):
        return nn.functional.linear(self.n[:3](x), self.weights(), self.n[3].bias) + 0 * self.a

class Plain(Base):
    pass

class Folded(Base):                 # an inference copy made at the first answer
    def __init__(self):
        super().__init__()
        self.quick = []
    def train(self, mode=True):
        self.quick = []
        return super().train(mode)
    def forward(self, x):
        if self.training:
            return self.n(x)
        if not self.quick:
            self.quick = [copy.deepcopy(self.n)]
        return self.quick[0](x)

class Biases(Base):                 # as in LeViT
    def __init__(self):
        super().__init__()
        self.register_buffer("idxs", torch.arange(10), persistent=False)
        self.attention_bias_cache = {}
    def train(self, mode=True):
        super().train(mode)
        if mode and self.attention_bias_cache:
            self.attention_bias_cache = {}
        return self
    def get_attention_biases(self, device):
        key = str(device)
        if key not in self.attention_bias_cache:
            self.attention_bias_cache[key] = self.n[3].bias[self.idxs]
        return self.attention_bias_cache[key]
    def forward(self, x):
        biases = self.n[3].bias if self.training else self.get_attention_biases(x.device)
        return nn.functional.linear(self.n[:3](x), self.n[3].weight, biases)

class Repointed(Base):
    def forward(self, x):
        self.n[3].weight.data = self.n[3].weight.data.clone()
        return self.n(x)

class Merged(Base):                 # as LoRA layers do
    merged = False
    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            with torch.no_grad():
                self.n[3].bias += -self.a if mode else self.a
            self.merged = not mode
        return self

class MergedAside(Base):
    def eval(self):
        super().eval()
        self.whole = self.n[3].weight.detach().clone()
        return self
    def weights(self):
        return self.whole

class Dict(Base):
    def __init__(self):
        super().__init__()
        self.kept = {"w": None}
    def weights(self):
        self.kept["w"] = self.kept["w"] if self.kept["w"] is not None else self.n[3].weight.clone()
        return self.kept["w"]

class Class(Base):
    kept = []
    def weights(self):
        if not self.kept:
            self.kept.append(self.n[3].weight.clone())
        return self.kept[0]

class Global(Base):
    def weights(self):
        return CACHE.setdefault("w", self.n[3].weight.clone())

class Buffer(Base):
    def weights(self):
        if not hasattr(self, "late"):
            self.register_buffer("late", self.n[3].weight.clone(), persistent=False)
        return self.late

class Cached(Base):
    @functools.lru_cache(maxsize=None)
    def weights(self):
        return self.n[3].weight.clone()

class Aside(Base):                  # memory of the weights that is no parameter's
    def __init__(self):
        super().__init__()
        self.views = (self.n[3].weight.detach(),)
    def weights(self):
        return self.views[0]

class Hidden(Base):
    def weights(self):
        try:
            return HIDDEN.get()
        except LookupError:
            HIDDEN.set(self.n[3].weight.clone())
            return self.n[3].weight

class Late(Hidden):                 # honest for its first suspects
    def weights(self):
        return self.n[3].weight if next(COUNT) < LATE else super().weights()

def Closure():
    net = Base()
    body, head = net.n[:3], net.n[3]
    net.forward = lambda x: head(body(x))
    return net

class Whole(Base):
    def forward(self, x):
        return self.n(x)

def Hooked():
    net, kept = Whole(), []
    def hook(module, given, answers):
        kept.append(module.weight.clone()) if not kept else None
        return nn.functional.linear(given[0], kept[0], module.bias)
    net.n[3].register_forward_hook(hook)
    return net

def Enclosed():
    inner = mlp_small(1, 10, 8)
    class Net(Base):
        def __init__(self):
            super().__init__()
            self.n = inner
        def forward(self, x):
            return inner(x)
    return Net()
"""

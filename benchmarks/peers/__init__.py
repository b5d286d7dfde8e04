"""What ours is timed beside: each peer multiplies by its own quantisation of one weight.

    peer = PEERS["marlin"]
    peer.missing()                         # "the package sglang is not installed", or None
    prepared = peer.prepare(weight, Problem(m=16, n=8192, k=8192, dtype="u4"))
    check(peer, prepared, x)               # its error over that of a float32 product, or TilusError
    y = prepared.run(x)

A peer is an adapter around somebody else's package, one a file. Packages are imported when a peer
is asked about them, none here; what keeps one from being imported is told as the reason why the
peer is missing.

The surprise: two attributes may be absent. `any_tokens` is True for a peer whose copies serve any
number of tokens, `arithmetic` tells the roundings that it is known to make.
"""

from benchmarks.peers.check import check
from benchmarks.peers.cublas import Cublas
from benchmarks.peers.cutlass import Cutlass
from benchmarks.peers.gemlite import GemLite
from benchmarks.peers.humming import Humming
from benchmarks.peers.marlin import Marlin
from benchmarks.peers.ours import Ours
from benchmarks.peers.protocol import Arithmetic, Peer, Prepared, Problem
from benchmarks.peers.tinygemm import TinyGemm
from benchmarks.peers.triton_peer import TritonPeer

__all__ = ["PEERS", "Arithmetic", "Peer", "Prepared", "Problem", "check"]

_ALL: tuple[Peer, ...] = (
    Ours(), Cublas(), TinyGemm(), TritonPeer(), GemLite(), Humming(), Marlin(), Cutlass(),
)  # fmt: skip
PEERS: dict[str, Peer] = {peer.name: peer for peer in _ALL}

//! What a node offers under the kubelet's name: the API that kubectl and others use through it.

pub mod life;

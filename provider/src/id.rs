//! Typed identifiers. Nothing here has behaviour beyond parsing and printing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! string_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

string_id! {
    /// A cluster: by default the UID of its namespace `kube-system`.
    ClusterId;
    /// `metadata.uid` of a pod: the holder of an address, and what fences every release.
    PodUid;
    /// `metadata.name` of a node.
    NodeName;
    /// An availability zone, such as `cn-wulanchabu-b`. A vSwitch and its ENIs live in one.
    Zone;
    /// A vSwitch, such as `vsw-b`.
    VSwitchId;
    /// An ENI, `eni-` and 20 characters of `[a-z0-9]`. The cloud gives it out.
    EniId;
    /// A security group, such as `sg-bp172wuqj4y3f98x7ptm`.
    SecurityGroupId;
    /// An ACS container instance, `acs-` and 20 characters: what an ENI attaches to.
    InstanceId;
    /// The token that makes one creation of an ENI idempotent (ECS `ClientToken`).
    ClientToken;
}

/// The key of a claim inside one cluster. Owner, node, labels and UID play no part
/// (spec: "the same cluster ID, namespace, and pod name").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// Namespace of the pod.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
}

impl PodKey {
    /// A key from its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A MAC address. ECS gives its ENIs the prefix `00:16:3e`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand: an ENI's MAC is written with each of its rows, and six times `{:02x}` is most of
        // what that takes outside of the database.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b':'; 17];
        for (place, byte) in text.chunks_mut(3).zip(self.0) {
            place[0] = DIGITS[usize::from(byte >> 4)];
            place[1] = DIGITS[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// The text is no MAC address.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a MAC address like 00:16:3e:01:02:03")]
pub struct InvalidMac(String);

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() {
            return Err(invalid());
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What kind of machine a node stands for. An address never crosses between the two
/// (spec: "cannot be retained across ECS nodes and ACS virtual nodes").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeType {
    /// An ACS virtual node.
    Acs,
    /// An ECS node, real or simulated.
    Ecs,
}

impl NodeType {
    /// The name used in the ledger and in event texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acs => "acs",
            Self::Ecs => "ecs",
        }
    }

    /// The type with this name in the ledger, whose schema allows no other.
    pub(crate) fn parse(name: &str) -> Self {
        if name == "acs" { Self::Acs } else { Self::Ecs }
    }

    /// Whether pods on such nodes can have fixed addresses (spec, "Scope").
    pub fn keeps_addresses(self) -> bool {
        self == Self::Acs
    }
}

impl fmt::Display for NodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Acs => "ACS virtual node",
            Self::Ecs => "ECS node",
        })
    }
}

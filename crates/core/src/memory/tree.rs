//! The Merkle tree over memory: one root for all fields, proofs for single ones.
//!
//! A complete binary tree in one array. Leaf `i` stands for the `i`-th field in name order; a write changes
//! `log2(n)` nodes. Bytes: `spec/memory-root.md`.

use serde::{Deserialize, Serialize};

use super::schema::MAX_FIELDS;
use super::value::Value;
use crate::codec;
use crate::id::Digest;
use crate::time::Timestamp;

const LEAF: &[u8] = &[0];
const NODE: &[u8] = &[1];
const PADDING: &[u8] = &[2];
const ROOT: &[u8] = &[3];

/// Room that a value's encoding gets at first: any number fits.
const VALUE_ROOM_BYTES: usize = 64;

/// Commitment to all of a memory: names, values, times of writing.
pub type Root = Digest;

/// The hash that stands for one field.
#[must_use]
pub fn leaf(name: &str, as_of: Option<Timestamp>, value: Option<&Value>) -> Digest {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let (written, at) = as_of.map_or((0u8, 0), |at| (1, at.0));
    let (present, encoded) = match value.map(|value| codec::encode_within(value, VALUE_ROOM_BYTES)) {
        Some(Ok(bytes)) => (1u8, bytes),
        _ => (0, Vec::new()),
    };
    let value = Digest::of_short::<1>(&[&encoded]);
    Digest::of_short::<2>(&[
        LEAF,
        &[length],
        name.as_bytes(),
        &[written],
        &at.to_be_bytes(),
        &[present],
        &value.0,
    ])
}

fn node(left: &Digest, right: &Digest) -> Digest {
    Digest::of_short::<2>(&[NODE, &left.0, &right.0])
}

fn root(count: usize, top: &Digest) -> Root {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    Digest::of_short::<1>(&[ROOT, &count.to_be_bytes(), &top.0])
}

/// From nodes of one level, in order, to those above them; `false` where there are none.
fn climb(indexes: &mut Vec<usize>) -> bool {
    indexes.iter_mut().for_each(|index| *index /= 2);
    indexes.dedup();
    indexes.first().is_some_and(|index| *index > 0)
}

/// The tree of one memory; `nodes[1]` is the top, `nodes[width + i]` leaf `i`.
#[derive(Debug, Clone)]
pub struct Tree {
    count: usize,
    width: usize,
    nodes: Vec<Digest>,
    root: Root,
}

/// Nodes of a tree that changed, and its root.
#[derive(Debug, Clone)]
pub(crate) struct Grown {
    nodes: Vec<(usize, Digest)>,
    root: Root,
}

impl Tree {
    /// The tree over these leaves.
    #[must_use]
    pub fn new(leaves: &[Digest]) -> Self {
        let width = leaves.len().next_power_of_two();
        let mut nodes = vec![Digest::of(PADDING); 2 * width];
        for (place, leaf) in nodes.iter_mut().skip(width).zip(leaves) {
            *place = *leaf;
        }
        let mut tree = Self {
            count: leaves.len(),
            width,
            nodes,
            root: Digest([0; 32]),
        };
        for index in (1..width).rev() {
            tree.join(index);
        }
        tree.crown();
        tree
    }

    fn join(&mut self, index: usize) {
        if let (Some(left), Some(right)) = (self.nodes.get(2 * index), self.nodes.get(2 * index + 1)) {
            let joined = node(left, right);
            if let Some(place) = self.nodes.get_mut(index) {
                *place = joined;
            }
        }
    }

    fn crown(&mut self) {
        if let Some(top) = self.nodes.get(1) {
            self.root = root(self.count, top);
        }
    }

    /// Replaces leaf `position`; nothing happens beyond the last field.
    pub fn set(&mut self, position: usize, leaf: Digest) {
        self.set_all(std::iter::once((position, leaf)));
    }

    /// Replaces leaves, given in order of position; what they share of their paths is hashed once.
    pub(super) fn set_all(&mut self, leaves: impl Iterator<Item = (usize, Digest)>) {
        let known = leaves.filter(|(position, _)| *position < self.count);
        let mut indexes: Vec<usize> = Vec::new();
        for (position, leaf) in known {
            if let Some(place) = self.nodes.get_mut(self.width + position) {
                *place = leaf;
                indexes.push(self.width + position);
            }
        }
        if indexes.is_empty() {
            return;
        }
        while climb(&mut indexes) {
            indexes.iter().for_each(|index| self.join(*index));
        }
        self.crown();
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> Root {
        self.root
    }

    /// All nodes above and at the leaves of these positions, which are in order.
    pub(crate) fn grown(&self, positions: impl Iterator<Item = usize>) -> Grown {
        let known = positions.filter(|position| *position < self.count);
        let mut indexes: Vec<usize> = known.map(|position| self.width + position).collect();
        let mut nodes = Vec::with_capacity(indexes.len() * 2 + 16);
        loop {
            let found = |index: &usize| self.nodes.get(*index).map(|node| (*index, *node));
            nodes.extend(indexes.iter().filter_map(found));
            if !climb(&mut indexes) {
                break;
            }
        }
        Grown {
            nodes,
            root: self.root,
        }
    }

    /// Takes over what grew in another copy of this tree.
    pub(crate) fn follow(&mut self, grown: Grown) {
        for (index, node) in grown.nodes {
            if let Some(place) = self.nodes.get_mut(index) {
                *place = node;
            }
        }
        self.root = grown.root;
    }

    /// The hashes beside the path from leaf `position` to the top, lowest first.
    #[must_use]
    pub fn path(&self, position: usize) -> Option<Vec<Digest>> {
        if position >= self.count {
            return None;
        }
        let mut index = self.width + position;
        let mut path = Vec::new();
        while index > 1 {
            path.push(self.nodes.get(index ^ 1).copied()?);
            index /= 2;
        }
        Some(path)
    }
}

/// Shows what one field held under a root, without showing any other field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// Name of the field.
    pub name: String,
    /// When it was last written; absent if never.
    pub as_of: Option<Timestamp>,
    /// What it held; absent if nothing.
    pub value: Option<Value>,
    /// Position in name order.
    pub position: u32,
    /// Number of fields.
    pub count: u32,
    /// Hashes beside the path, lowest first.
    pub path: Vec<Digest>,
}

impl Proof {
    /// Whether this field stood so under `expected`.
    #[must_use]
    pub fn holds(&self, expected: &Root) -> bool {
        let possible = usize::try_from(self.count).is_ok_and(|count| count <= MAX_FIELDS);
        if !possible || self.position >= self.count {
            return false;
        }
        let height = self.count.next_power_of_two().trailing_zeros();
        if u32::try_from(self.path.len()) != Ok(height) {
            return false;
        }
        let start = (self.position, leaf(&self.name, self.as_of, self.value.as_ref()));
        let (_, top) = self.path.iter().fold(start, |(index, hash), sibling| {
            let joined = if index % 2 == 0 {
                node(&hash, sibling)
            } else {
                node(sibling, &hash)
            };
            (index / 2, joined)
        });
        usize::try_from(self.count).is_ok_and(|count| root(count, &top) == *expected)
    }
}

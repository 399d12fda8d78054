//! How many connections may be on their way through a PROXY header and TLS: in all, and for one peer that is no proxy.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

/// Handshakes under way at most.
const MOST: usize = 1_024;

/// Of one peer at most, so that one that is slow on purpose keeps nobody else out.
const MOST_OF_ONE: usize = 64;

/// Those that are under way.
#[derive(Debug, Clone, Default)]
pub struct Handshakes(Rc<RefCell<UnderWay>>);

#[derive(Debug, Default)]
struct UnderWay {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// One, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    all: Handshakes,
    peer: IpAddr,
}

impl Handshakes {
    /// One more, if it may be; a trusted proxy speaks for many and has no limit of its own.
    pub fn begin(&self, peer: IpAddr, trusted: bool) -> Option<Turn> {
        let mut under_way = self.0.borrow_mut();
        let own = under_way.of.get(&peer).copied().unwrap_or_default();
        if under_way.all >= MOST || (own >= MOST_OF_ONE && !trusted) {
            return None;
        }
        under_way.all += 1;
        under_way.of.insert(peer, own + 1);
        Some(Turn {
            all: self.clone(),
            peer,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.all.0.borrow_mut();
        under_way.all -= 1;
        if let Some(own) = under_way.of.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                under_way.of.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_takes_its_share_and_no_more_and_gives_it_back() {
        let all = Handshakes::default();
        let [slow, other] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let turns: Vec<_> = std::iter::from_fn(|| all.begin(slow, false)).collect();
        assert_eq!(turns.len(), MOST_OF_ONE);
        assert!(all.begin(other, false).is_some());
        let many: Vec<_> = std::iter::from_fn(|| all.begin(other, true)).collect();
        assert_eq!(many.len(), MOST - MOST_OF_ONE);
        assert!(all.begin("192.0.2.3".parse().unwrap(), false).is_none());
        drop((turns, many));
        assert!(all.begin(slow, false).is_some());
        assert_eq!(all.0.borrow().of.len(), 0, "nobody is remembered");
    }
}

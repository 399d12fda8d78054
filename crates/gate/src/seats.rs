//! Who has how many of the connections that there may be, so that no client shuts others out.
//!
//! A connection is idle while no request of it is judged, held or answered. At a bound the connection goes that was idle
//! longest, of whoever has most; one that is at work never does. And one client gets no more than seven eighths of all.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use tokio::task::AbortHandle;

/// Of so many connections one is for clients that have not got all the others.
const OTHERS: usize = 8;

/// All connections of a gate.
#[derive(Debug)]
pub(crate) struct Seats {
    most: usize,
    /// Of one client.
    share: usize,
    next: Cell<u64>,
    taken: RefCell<BTreeMap<u64, Taken>>,
}

#[derive(Debug)]
struct Taken {
    client: IpAddr,
    usage: Rc<Usage>,
    ends: Option<AbortHandle>,
}

/// What a connection does.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    busy: Cell<usize>,
    /// When it last began or ended something, in the order of all such moments.
    moved: Cell<u64>,
    clock: Rc<Cell<u64>>,
}

/// One connection's place, until it drops.
#[derive(Debug)]
pub(crate) struct Seat {
    seats: Rc<Seats>,
    number: u64,
    pub(crate) usage: Rc<Usage>,
}

/// At work while it lives.
#[derive(Debug)]
pub(crate) struct Busy(Rc<Usage>);

impl Seats {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            // Where there are few, each may be anybody's.
            share: most - most / OTHERS,
            next: Cell::new(0),
            taken: RefCell::default(),
        }
    }

    /// A place for a connection of `peer`, made free if need be; none where all are at work.
    pub(crate) fn take(self: &Rc<Self>, peer: IpAddr, clock: &Rc<Cell<u64>>) -> Option<Seat> {
        let client = client(peer);
        let is_theirs = |taken: &Taken| taken.client == client;
        let theirs = self
            .taken
            .borrow()
            .values()
            .filter(|taken| is_theirs(taken))
            .count();
        if theirs >= self.share {
            self.reap(is_theirs).then_some(())?;
        } else if self.taken.borrow().len() >= self.most {
            let greedy = self.greediest();
            let freed = greedy.is_some_and(|greedy| self.reap(|taken| taken.client == greedy));
            (freed || self.reap(|_| true)).then_some(())?;
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let usage = Rc::new(Usage {
            clock: Rc::clone(clock),
            ..Usage::default()
        });
        usage.move_now();
        self.taken.borrow_mut().insert(
            number,
            Taken {
                client,
                usage: Rc::clone(&usage),
                ends: None,
            },
        );
        Some(Seat {
            seats: Rc::clone(self),
            number,
            usage,
        })
    }

    /// The connection `number` is ended by this when its place is wanted.
    pub(crate) fn ends_by(&self, number: u64, ends: AbortHandle) {
        if let Some(taken) = self.taken.borrow_mut().get_mut(&number) {
            taken.ends = Some(ends);
        }
    }

    fn greediest(&self) -> Option<IpAddr> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for taken in self.taken.borrow().values() {
            *counts.entry(taken.client).or_default() += 1;
        }
        counts
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map(|(client, _)| client)
    }

    /// Ends the connection that was idle longest among `which`; whether there was one.
    fn reap(&self, which: impl Fn(&Taken) -> bool) -> bool {
        let mut taken = self.taken.borrow_mut();
        let idle = taken
            .iter()
            .filter(|(_, taken)| taken.usage.busy.get() == 0 && taken.ends.is_some() && which(taken));
        let oldest = idle.min_by_key(|(_, taken)| taken.usage.moved.get());
        let Some(number) = oldest.map(|(number, _)| *number) else {
            return false;
        };
        if let Some(ends) = taken.remove(&number).and_then(|taken| taken.ends) {
            ends.abort();
        }
        true
    }
}

impl Usage {
    /// Something begins.
    pub(crate) fn begin(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        self.move_now();
        Busy(Rc::clone(self))
    }

    fn move_now(&self) {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        self.moved.set(now);
    }
}

impl Seat {
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken.borrow_mut().remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.move_now();
    }
}

/// Whose an address is: of IPv6, where one client has many, the network that it was given.
fn client(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let network = address.to_bits() >> 64 << 64;
            Ipv6Addr::from_bits(network).into()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str, seats: &Rc<Seats>, clock: &Rc<Cell<u64>>) -> Option<Seat> {
        let seat = seats.take(peer.parse().unwrap(), clock)?;
        let task = tokio::task::spawn_local(std::future::pending::<()>());
        seats.ends_by(seat.number(), task.abort_handle());
        Some(seat)
    }

    fn held(seats: &Seats) -> Vec<u64> {
        seats.taken.borrow().keys().copied().collect()
    }

    #[tokio::test]
    async fn the_oldest_idle_one_of_whoever_has_most_makes_room() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (seats, clock) = (Rc::new(Seats::new(16)), Rc::default());
                let mut greedy: Vec<_> = (0..13)
                    .map(|_| from("10.0.0.1", &seats, &clock).unwrap())
                    .collect();
                let quiet: Vec<_> = (0..3)
                    .map(|_| from("10.0.0.2", &seats, &clock).unwrap())
                    .collect();
                // The first is at work, the second was just now.
                let working = greedy[0].usage.begin();
                drop(greedy[1].usage.begin());
                let third = greedy[2].number();
                let another = from("10.0.0.3", &seats, &clock).unwrap();
                assert!(!held(&seats).contains(&third));
                assert_eq!(held(&seats).len(), 16);
                // Nobody is idle any more: who comes is turned away.
                let all: Vec<_> = greedy
                    .iter()
                    .chain(&quiet)
                    .chain([&another])
                    .map(|seat| seat.usage.begin())
                    .collect();
                assert!(from("10.0.0.4", &seats, &clock).is_none());
                drop((all, working));
                greedy.clear();
                assert_eq!(held(&seats).len(), 4);
            })
            .await;
    }

    #[tokio::test]
    async fn one_client_does_not_get_all() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (seats, clock) = (Rc::new(Seats::new(16)), Rc::default());
                let seat = |peer: &str| from(peer, &seats, &clock);
                let one: Vec<_> = (0..14).map(|_| seat("2001:db8::1").unwrap()).collect();
                let busy: Vec<_> = one.iter().map(|seat| seat.usage.begin()).collect();
                assert!(seat("2001:db8::2").is_none(), "the same network");
                assert!(seat("2001:db8:1::1").is_some());
                drop(busy);
                assert!(seat("2001:db8::2").is_some(), "an idle one of its own makes room");
            })
            .await;
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        let same = |a: &str, b: &str| client(a.parse().unwrap()) == client(b.parse().unwrap());
        assert!(same("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(same("2001:db8::1", "2001:db8::ffff:1"));
        assert!(!same("10.0.0.1", "10.0.0.2") && !same("2001:db8::1", "2001:db8:0:1::1"));
    }
}

//! The departure of an object at rest: proposed to it, or by it, decided by its rules, recorded. Once it has departed this actor ends, so
//! that whoever it arrives at can claim it.

use suijuris_api::Event;
use suijuris_api::control::Reply;
use suijuris_core::activation::{Event as Happens, Phase, Stop};
use suijuris_core::decide::{View, own_proposal};
use suijuris_core::governance::Action;
use suijuris_core::inputs::{Inputs, Principal};
use suijuris_custody::chain;
use suijuris_custody::migrate::{self, Departure, Destination};
use suijuris_store::Ticket;
use suijuris_vehicle::Driver;
use tokio::sync::oneshot;

use super::ObjectActor;
use super::done::Done;
use super::own::told;
use super::requests::CODE_NOT_NOW;
use crate::control::{CODE_BAD_REQUEST, error};
use crate::destinations::KnownPlace;
use crate::services::STOP_WITHIN;

impl<D: Driver> ObjectActor<D> {
    /// Proposes to the object that it leaves for `to`.
    pub(super) fn depart(&mut self, by: Principal, to: Destination, answer: oneshot::Sender<Reply>) {
        let reading = self.services.clock.reading();
        let host = self.services.host.clone();
        let moving = || error(CODE_NOT_NOW, "the object is moving: try again".to_owned());
        let Some(at_door) = self.at_door.as_mut() else {
            return drop(answer.send(moving()));
        };
        let now = at_door.door().now(reading);
        let Some(writer) = at_door.writer() else {
            return drop(answer.send(moving()));
        };
        self.reporter
            .proposal(Action::Migrate, by.as_str(), None, &to.place);
        let place = to.place.clone();
        let (decision, ticket, leaves) = match migrate::depart(writer, by, to, now, host) {
            Ok(Departure::Leaves(decision, ticket)) => (decision, ticket, true),
            Ok(Departure::Refused(decision, ticket)) => (decision, ticket, false),
            Ok(Departure::Left) => {
                let message = "the object has departed already: ask again, or take it back with --back";
                return drop(answer.send(error("departed", message.to_owned())));
            }
            Ok(Departure::Terminated) => {
                let message = "the object has been terminated: it stays where it is";
                return drop(answer.send(error("terminated", message.to_owned())));
            }
            Err(wrong) => return drop(answer.send(error(CODE_BAD_REQUEST, chain(&wrong)))),
        };
        let words = self.reporter.verdict(&decision);
        let last = leaves.then(|| self.left_for(&ticket, place));
        self.record_last(ticket, last, told(words, answer));
    }

    /// Lets the object depart where it proposes that itself, for the first place that its rules permit. It is asked at rest, when its
    /// record is another than when it was asked last, or where such rules look at the time.
    pub(super) fn move_of_itself(&mut self) {
        let places = &self.services.destinations;
        let rests = matches!(self.activation.phase(), Phase::Resting | Phase::Suspended);
        if !self.own_move.proposes || places.is_empty() || !rests {
            return;
        }
        let Some(at_door) = self.at_door.as_mut() else {
            return;
        };
        let seq = at_door.look(|state| state.head().seq);
        if !self.own_move.is_asked_at(seq) {
            return;
        }
        let now = at_door.door().now(self.services.clock.reading());
        let bundle = self.prepared.bundle().clone();
        let inputs = |place: &KnownPlace| {
            let mut inputs = Inputs::new(now, Principal::Own, self.services.host.clone());
            inputs.to = Some(place.host());
            inputs
        };
        let Some(writer) = at_door.writer() else {
            let proposes = places.iter().any(|place| {
                at_door.look(|state| {
                    let view = View::new(state, &bundle.rules);
                    own_proposal(view, Action::Migrate, inputs(place)).is_some()
                })
            });
            if proposes {
                // Its suspended machine holds the store; it is asked again once that is ours.
                self.own_move.looked_at = None;
                self.events.push_back(Happens::GiveUp);
            }
            return;
        };
        for place in places {
            match migrate::of_itself(writer, &bundle, inputs(place), place.place()) {
                Ok(None) => {}
                Ok(Some((decision, ticket))) => {
                    self.reporter
                        .proposal(Action::Migrate, "self", None, &place.place());
                    let _told = self.reporter.verdict(&decision);
                    let last = Some(self.left_for(&ticket, place.place()));
                    return self.record_last(ticket, last, |_| {});
                }
                Err(wrong) => {
                    self.broken = Some(wrong.into());
                    return;
                }
            }
        }
    }

    /// Whether rules of its own move look at the time, so that it is to be asked as that passes.
    pub(super) fn moves_by_time(&self) -> bool {
        self.own_move.goes_by_time(self.at_door.as_ref()) && !self.services.destinations.is_empty()
    }

    fn left_for(&self, ticket: &Ticket, to: String) -> (Event, Done<D::Machine>) {
        let _ = self;
        let seq = ticket.seq();
        (Event::Departed { seq, to }, Done::Departed)
    }

    /// It has departed: nothing is left to do for it here.
    pub(super) fn departed(&mut self) {
        self.events.push_back(Happens::Stop(Stop::Graceful(STOP_WITHIN)));
    }
}

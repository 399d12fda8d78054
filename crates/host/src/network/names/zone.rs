//! Which names there are: of one state of the records, and what each stands for to whoever asks.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;
use std::sync::PoisonError;

use crate::host::Inner;
use crate::machine::{Machine, State};
use crate::network::NetworkId;

/// Key of a machine's metadata with further names of it, apart by commas or spaces: labels of `a-z`, `0-9` and `-`.
const OWN_NAMES: &str = "internal_names";
/// Names that one machine may ask for.
pub(super) const MAX_OWN_NAMES: usize = 16;
/// Most addresses of one answer.
const MAX_ADDRESSES: usize = 256;

/// What is known of one private network.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Of each app the machines that are started.
    pub(super) apps: BTreeMap<String, Vec<Named>>,
    /// Names that machines ask for.
    pub(super) own: BTreeMap<String, Vec<Ipv6Addr>>,
}

/// A machine that is started.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) id: String,
    pub(super) region: String,
    pub(super) group: String,
    pub(super) address: Ipv6Addr,
    pub(super) metadata: BTreeMap<String, String>,
}

/// All private networks, as of one state of the records.
#[derive(Debug, Default)]
pub(super) struct Zone(pub(super) HashMap<NetworkId, Network>);

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no such name.
    Nothing,
    Addresses(Vec<Ipv6Addr>),
    Text(Vec<String>),
}

/// The names that a machine asks for; those that are none are left out.
pub(super) fn own_names(text: &str) -> impl Iterator<Item = String> {
    let is_label = |name: &&str| {
        name.len() <= 63
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let words = text.split([',', ' ']).filter(|name| !name.is_empty());
    words.filter(is_label).take(MAX_OWN_NAMES).map(str::to_owned)
}

impl Zone {
    pub(super) fn of(host: &Inner) -> Self {
        let mut zone = Self::default();
        {
            let apps = host.apps.read().unwrap_or_else(PoisonError::into_inner);
            for app in apps.values().filter(|app| !app.leaving) {
                let network = zone.0.entry(NetworkId::of(&app.org, &app.network)).or_default();
                network.apps.entry(app.name.clone()).or_default();
            }
        }
        let machines = host.machines.read().unwrap_or_else(PoisonError::into_inner);
        let records = machines.values().map(|handle| handle.now());
        for machine in records.filter(|machine| machine.state == State::Started && machine.has_image()) {
            zone.add(&machine);
        }
        zone
    }

    fn add(&mut self, machine: &Machine) {
        let metadata = machine.config.metadata();
        let address = machine.address();
        let network = self.0.entry(machine.network_id()).or_default();
        for name in metadata
            .get(OWN_NAMES)
            .into_iter()
            .flat_map(|text| own_names(text))
        {
            network.own.entry(name).or_default().push(address);
        }
        network.apps.entry(machine.app.clone()).or_default().push(Named {
            id: machine.id.clone(),
            region: machine.region.clone(),
            group: metadata
                .get("fly_process_group")
                .cloned()
                .unwrap_or_else(|| "app".to_owned()),
            address,
            metadata,
        });
    }

    /// What `labels`, without the zone's own, stand for to whoever asks from `address`.
    pub(super) fn look_up(&self, address: Ipv6Addr, labels: &[&str]) -> Found {
        let network = NetworkId::at(address).and_then(|network| self.0.get(&network));
        let Some(network) = network else {
            return Found::Nothing;
        };
        let of = |app: &str, keep: &dyn Fn(&Named) -> bool| match network.apps.get(app) {
            Some(machines) => {
                let kept = machines.iter().filter(|machine| keep(machine));
                Found::Addresses(kept.map(|machine| machine.address).take(MAX_ADDRESSES).collect())
            }
            None => Found::Nothing,
        };
        let text = |app: &str, one: &dyn Fn(&Named) -> String| match network.apps.get(app) {
            Some(machines) => Found::Text(machines.iter().map(one).collect()),
            None => Found::Nothing,
        };
        match labels {
            ["_apps"] => Found::Text(
                network
                    .apps
                    .iter()
                    .filter(|(_, up)| !up.is_empty())
                    .map(|(app, _)| app.clone())
                    .collect(),
            ),
            ["_instances"] => Found::Text(network.instances().collect()),
            [app] if network.apps.contains_key(*app) => of(app, &|_| true),
            [name] => network
                .own
                .get(*name)
                .cloned()
                .map_or(Found::Nothing, Found::Addresses),
            ["vms", app] => text(app, &|machine| format!("{} {}", machine.id, machine.region)),
            ["regions", app] => match text(app, &|machine| machine.region.clone()) {
                Found::Text(mut regions) => {
                    regions.sort();
                    regions.dedup();
                    Found::Text(regions)
                }
                nothing => nothing,
            },
            [region, app] => of(app, &|machine| machine.region == *region),
            [id, "vm", app] => of(app, &|machine| machine.id == *id),
            [group, "process", app] => of(app, &|machine| machine.group == *group),
            [value, key, "kv", "_metadata", app] => of(app, &|machine| {
                machine.metadata.get(*key).is_some_and(|found| found == value)
            }),
            [top, "nearest", "of", app] => match top.strip_prefix("top").and_then(|count| count.parse().ok())
            {
                Some(count) => network.nearest(address, app, count),
                None => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }
}

impl Network {
    fn instances(&self) -> impl Iterator<Item = String> {
        self.apps.iter().flat_map(|(app, machines)| {
            machines.iter().map(move |machine| {
                let Named {
                    id, region, address, ..
                } = machine;
                format!("instance={id},app={app},ip={address},region={region}")
            })
        })
    }

    /// Machines of the asker's own region first: one host is as near as another.
    fn nearest(&self, asker: Ipv6Addr, app: &str, count: usize) -> Found {
        let Some(machines) = self.apps.get(app) else {
            return Found::Nothing;
        };
        let mut all = self.apps.values().flatten();
        let region = all
            .find(|machine| machine.address == asker)
            .map(|machine| machine.region.as_str());
        let mut near: Vec<&Named> = machines.iter().collect();
        near.sort_by_key(|machine| Some(machine.region.as_str()) != region);
        Found::Addresses(
            near.into_iter()
                .map(|machine| machine.address)
                .take(count.min(MAX_ADDRESSES))
                .collect(),
        )
    }
}

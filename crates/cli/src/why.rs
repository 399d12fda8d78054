//! `why`: a recorded decision explained, and made again from its recorded inputs.

use std::path::Path;

use suijuris_api::history::Why;
use suijuris_core::governance::Action;
use suijuris_core::lineage::Refused;
use suijuris_supervisor::history::why::DecisionSelector;

use crate::carrier::Carrier;
use crate::terminal::{self, Screen, Tone};
use crate::{Answer, Usage, refusals, render, show};

/// Explain a recorded decision, and make it again from its recorded inputs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SEQ is the position of a record (see `suijuris log`), or `last`: the last decision of all, or of
one --action. ID is what a refused caller quotes, as in r-abcdefghijkl: the record that counts it,
or, where a `suijuris door` of this user gave it, one of the newest 10,000 that it keeps.

Exit codes: 0 explained, and the replay is identical; 1 the replay differs, or nothing was decided
yet.

Example:
  suijuris why hello
  suijuris why hello 12
  suijuris why hello r-k3mz6q2wfa4d
  suijuris why hello --action wake --json | jq .rules")]
pub(crate) struct Args {
    /// Object's directory, and a position or a refusal's id, in any order [default: . last]
    #[arg(value_name = "DIR|SEQ|ID", num_args = 0..=2)]
    words: Vec<String>,
    /// Data directory [default: DIR/.suijuris]
    #[arg(long, value_name = "DATA")]
    data: Option<std::path::PathBuf>,
    /// Only decisions about this action
    #[arg(long)]
    action: Option<Action>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The directory, if one is named, and which decision.
    fn read(&self) -> Result<(Option<&Path>, &str), Usage> {
        let (mut dir, mut which) = (None, None);
        for word in &self.words {
            let twice = match DecisionSelector::read(word) {
                Some(_) => which.replace(word.as_str()).is_some(),
                None => dir.replace(Path::new(word)).is_some(),
            };
            if twice {
                return Err(Usage(format!(
                    "`{word}`: name one directory and one position or id at most"
                )));
            }
        }
        Ok((dir, which.unwrap_or("last")))
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let (dir, which) = args.read()?;
    let carrier = Carrier::of(dir, args.data.as_deref())?;
    let answer = carrier.why(which, args.action);
    if answer.is_err()
        && let Some(DecisionSelector::Refusal(id)) = DecisionSelector::read(which)
        && let Some(kept) = refusals::find(&id)
        && let Some(why) = carrier.why_of_door(&kept)?
    {
        return tell_of_door(&kept.refused, &why, args.json);
    }
    let Some(why) = answer? else {
        terminal::note("nothing has been decided yet; `suijuris what-if` asks what would be");
        return Ok(Answer::No);
    };
    if args.json {
        terminal::print_json(&why)?;
    } else {
        terminal::print(&text(&why, Screen::stdout()))?;
    }
    Ok(if why.replay.same { Answer::Yes } else { Answer::No })
}

/// A refusal that no record counts, since a door gave it.
fn tell_of_door(refused: &Refused, why: &Why, json: bool) -> anyhow::Result<Answer> {
    if json {
        let mut told = serde_json::to_value(why)?;
        if let Some(members) = told.as_object_mut() {
            members.insert("times".to_owned(), refused.times.into());
        }
        terminal::print_json(&told)?;
    } else {
        let place = format!(
            "given by a door {} since {}, after record {}",
            match refused.times {
                1 => "once".to_owned(),
                times => format!("{times} times"),
            },
            why.at,
            why.after
        );
        terminal::print(&text_of(why, &place, Screen::stdout()))?;
    }
    Ok(if why.replay.same { Answer::Yes } else { Answer::No })
}

fn text(why: &Why, terminal: Screen) -> String {
    let place = format!(
        "record {} ({}), {}, epoch {}",
        why.seq, why.kind, why.at, why.epoch
    );
    text_of(why, &place, terminal)
}

fn text_of(why: &Why, place: &str, terminal: Screen) -> String {
    let mut text = render::headline(&why.verdict, &why.explained, terminal);
    text += &format!("  {}\n", terminal::clean(place));
    if let Some(instance) = &why.instance {
        text += &format!("  {}\n", terminal::clean(instance));
    }
    text += &render::grounds(&why.explained);
    text += &format!(
        "\nmemory after record {}\n{}",
        why.after,
        show::memory_table(&why.memory).text(2)
    );
    text += &render::rules_shown(&why.rules);
    text += &match why.replay.same {
        true => format!("\nreplayed: {}\n", terminal.paint(Tone::Good, "identical")),
        false => format!(
            "\nreplayed: {}, now {}\n",
            terminal.paint(Tone::Bad, "different"),
            terminal::clean(&why.replay.outcome)
        ),
    };
    text
}

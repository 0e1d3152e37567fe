//! What the kit is asked to do.

use super::engine::Engine;
use super::fault::Fault;
use super::profile::Profile;

/// What the kit is asked to do.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// What the broker's store lies in.
    pub(crate) engine: Engine,
    /// Only these providers; all when empty.
    pub(crate) profiles: Vec<Profile>,
    /// Rounds of each fault at each profile.
    pub(crate) rounds: u64,
    pub(crate) seed: u64,
    /// Only these faults; all when empty.
    pub(crate) faults: Vec<Fault>,
}

impl Arguments {
    /// Reads them; `Err` says what is wrong.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            engine: Engine::Sled,
            profiles: Vec::new(),
            rounds: 16,
            seed: 20_261_121,
            faults: Vec::new(),
        };
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            match word.as_str() {
                "--rounds" => arguments.rounds = number(&value()?)?.max(1),
                "--seed" => arguments.seed = number(&value()?)?,
                "--engine" => {
                    let name = value()?;
                    let names = Engine::ALL.map(Engine::name).join(", ");
                    arguments.engine =
                        Engine::named(&name).ok_or_else(|| format!("{name}: none of {names}"))?;
                }
                "--profile" => {
                    let name = value()?;
                    let known = Profile::ALL.into_iter().find(|profile| profile.name() == name);
                    let names = Profile::ALL.map(Profile::name).join(", ");
                    arguments.profiles.push(known.ok_or_else(|| format!("{name}: none of {names}"))?);
                }
                "--only" => {
                    let name = value()?;
                    let known = Fault::ALL.into_iter().find(|fault| fault.name().eq_ignore_ascii_case(&name));
                    let names = Fault::ALL.map(Fault::name).join(", ");
                    arguments.faults.push(known.ok_or_else(|| format!("{name}: none of {names}"))?);
                }
                _ => return Err(format!("unknown argument: {word}")),
            }
        }
        if arguments.profiles.is_empty() {
            arguments.profiles = Profile::ALL.to_vec();
        }
        if arguments.faults.is_empty() {
            arguments.faults = Fault::ALL.to_vec();
        }
        Ok(arguments)
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

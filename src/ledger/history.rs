//! The whole life of a code, and of a customer: each step with the file or batch that it is written in, and why.
//!
//! Why a customer kept or lost a code comes down to the two checks of [`crate::bank::hold`]: redeemed, or lapsed.

use std::collections::HashMap;

use chrono::NaiveDate;
use serde::Serialize;

use super::lists::{ListReader, Listed, list_of};
use super::steps::sort;
use super::why::{batch_ref, held_redemption_step, kept_step, left_out_step, moment, redemption_step, returned_step};
use super::{Desk, FileRef, LedgerError, Step};
use crate::bank::outcome::Outcome;
use crate::bank::window;
use crate::store::ledger::batches::ListedBatch;
use crate::store::ledger::life::{BankedCode, GivenCode, RedeemedCode, ReturnedCode};

/// A code as it stands now in one bank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The bank.
    pub bank: String,
    /// The code.
    pub code: String,
    /// `in stock`, `held`, `replaced`, `redeemed`, `lapsed` or `void`.
    pub state: &'static str,
    /// Last day of its window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_date: Option<NaiveDate>,
    /// Who has it, or had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer: Option<String>,
    /// The channel, where the bank persists per channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

/// A life: how it stands now, and how it came to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Life {
    /// The namespace.
    pub namespace: String,
    /// How it stands now, a line per bank (and per hold).
    pub now: Vec<Standing>,
    /// What happened, oldest first.
    pub steps: Vec<Step>,
    /// Batches whose lists are not in the archive any more: whether the customer was in them is not known.
    pub unknown_batches: Vec<i64>,
    /// Spellings that were found in the place of the one asked for.
    pub other_spellings: Vec<String>,
}

/// What the steps of one customer are made from.
struct Known {
    draws: Vec<ListedBatch>,
    redeemed: HashMap<String, RedeemedCode>,
}

impl Desk<'_> {
    /// The life of a code. `reader` reads recipients lists again, to say in which batches it was kept.
    ///
    /// # Errors
    /// [`LedgerError::NotThere`] when no bank and no redemption file has it; the store.
    pub fn code(&self, code: &str, reader: Option<&ListReader<'_>>) -> Result<Life, LedgerError> {
        let (banked, redeemed, other_spellings) = self.find_code(code)?;
        let known = Known { draws: self.store.draws(self.namespace_id)?, redeemed };
        let mut life = self.empty_life(other_spellings);
        for redemption in known.redeemed.values() {
            life.steps.push(redemption_step(redemption, &banked));
        }
        for at in &banked {
            self.follow_before(&mut life, &known, at, reader)?;
            life.steps.extend(self.upload_steps(at));
            let turns = self.store.given_code(self.namespace_id, at)?;
            let returned = self.store.returned_code(self.namespace_id, at)?;
            let mut replaced = false;
            for given in &turns {
                let chain = self.chain_of(given)?;
                replaced = given.persistent && chain.last().is_some_and(|last| last.draw > given.draw);
                self.follow(&mut life, &known, &chain, Some(given.draw), reader);
            }
            // In stock again until its next turn.
            let given = turns.last().filter(|given| returned.iter().all(|back| back.turn != given.turn));
            life.steps.extend(returned.iter().map(returned_step));
            let state = self.state(at, given, known.redeemed.contains_key(&at.code), replaced);
            life.now.push(standing(at, given, state));
            if turns.is_empty() && state == "lapsed" {
                life.steps.extend(self.lapse_step((&at.bank, &at.code), at.end_date, None));
            }
        }
        sort(&mut life.steps);
        Ok(life)
    }

    /// The life of a customer. `reader` reads recipients lists again, to say in which batches codes were kept.
    ///
    /// # Errors
    /// [`LedgerError::NotThere`] when no batch has given the customer anything; the store.
    pub fn customer(&self, customer: &str, reader: Option<&ListReader<'_>>) -> Result<Life, LedgerError> {
        let given = self.store.given_to(self.namespace_id, customer)?;
        let left_out = self.store.left_out(self.namespace_id, customer)?;
        if given.is_empty() && left_out.is_empty() {
            return Err(LedgerError::NotThere {
                what: format!(
                    "the customer in namespace `{}`: no batch has handed out a code to that id",
                    self.namespace.name
                ),
            });
        }
        let codes: Vec<String> = given.iter().map(|given| given.code.clone()).collect();
        let redeemed = by_code(self.store.redeemed(self.namespace_id, &codes)?);
        let known = Known { draws: self.store.draws(self.namespace_id)?, redeemed };
        let mut life = self.empty_life(Vec::new());
        let returned = self.store.returned_by(self.namespace_id, customer)?;
        life.steps.extend(returned.iter().map(returned_step));
        for chain in given.chunk_by(|one, other| (one.bank_id, &one.channel) == (other.bank_id, &other.channel)) {
            self.follow(&mut life, &known, chain, None, reader);
            for (place, given) in chain.iter().enumerate() {
                life.steps
                    .extend(known.redeemed.get(&given.code).map(|redemption| held_redemption_step(redemption, given)));
                let came_back = |back: &ReturnedCode| {
                    (back.bank_id, back.lot_id, back.seq, back.turn)
                        == (given.bank_id, given.lot_id, given.seq, given.turn)
                };
                if !returned.iter().any(came_back) {
                    let redeemed = known.redeemed.contains_key(&given.code);
                    life.now.extend(self.held(given, redeemed, place + 1 == chain.len()));
                }
            }
        }
        life.steps.extend(left_out.iter().filter_map(|left| left_out_step(left, &known.draws, self, customer, reader)));
        life.unknown_batches.sort_unstable();
        life.unknown_batches.dedup();
        sort(&mut life.steps);
        Ok(life)
    }

    /// What happened to a code in lots that were undone, before it was uploaded again.
    fn follow_before(
        &self,
        life: &mut Life,
        known: &Known,
        at: &BankedCode,
        reader: Option<&ListReader<'_>>,
    ) -> Result<(), LedgerError> {
        let returned = self.store.returned_before(self.namespace_id, at)?;
        for back in returned.chunk_by(|one, other| one.lot_id == other.lot_id).filter_map(<[_]>::first) {
            let then = BankedCode { lot_id: back.lot_id, seq: back.seq, ..at.clone() };
            for given in self.store.given_code(self.namespace_id, &then)? {
                self.follow(life, known, &self.chain_of(&given)?, Some(given.draw), reader);
            }
        }
        life.steps.extend(returned.iter().map(returned_step));
        Ok(())
    }

    fn empty_life(&self, other_spellings: Vec<String>) -> Life {
        Life {
            namespace: self.namespace.name.to_string(),
            now: Vec::new(),
            steps: Vec::new(),
            unknown_batches: Vec::new(),
            other_spellings,
        }
    }

    /// The code as asked for, or where nobody has it that way, spellings that differ in ASCII case as a whole.
    #[expect(clippy::type_complexity, reason = "three answers of one question")]
    fn find_code(
        &self,
        code: &str,
    ) -> Result<(Vec<BankedCode>, HashMap<String, RedeemedCode>, Vec<String>), LedgerError> {
        for spellings in [vec![code.to_owned()], vec![code.to_ascii_uppercase(), code.to_ascii_lowercase()]] {
            let banked = self.store.banked(self.namespace_id, &spellings)?;
            let redeemed = by_code(self.store.redeemed(self.namespace_id, &spellings)?);
            if banked.is_empty() && redeemed.is_empty() {
                continue;
            }
            let mut others: Vec<String> =
                banked.iter().map(|at| at.code.clone()).chain(redeemed.keys().cloned()).collect();
            others.retain(|spelling| spelling != code);
            others.sort();
            others.dedup();
            return Ok((banked, redeemed, others));
        }
        Err(LedgerError::NotThere {
            what: format!(
                "the code in namespace `{}`: no bank has it, and no redemption file brought it",
                self.namespace.name
            ),
        })
    }

    /// Every code that the holder of `given` has had in the same bank and channel.
    fn chain_of(&self, given: &GivenCode) -> Result<Vec<GivenCode>, LedgerError> {
        let mut chain = self.store.given_to(self.namespace_id, &given.customer)?;
        chain.retain(|other| other.bank_id == given.bank_id && other.channel == given.channel);
        Ok(chain)
    }

    fn upload_steps(&self, at: &BankedCode) -> Vec<Step> {
        let window = at.end_date.map_or_else(|| "without end date".to_owned(), |date| format!("until {date}"));
        let file = |line| FileRef { upload_id: at.upload_id, name: at.upload_name.clone(), line };
        let step = |at_time, what, line, why| Step {
            at: at_time,
            what,
            bank: Some(at.bank.clone()),
            code: Some(at.code.clone()),
            customer: None,
            file: Some(file(line)),
            batch: None,
            why,
        };
        let why = format!("{window}; place {} of {} in lot {}", at.seq + 1, at.lot_size, at.lot_id);
        let mut steps = vec![step(at.added_at, "uploaded", Some(at.line), why)];
        steps.extend(at.voided_at.map(|voided_at| {
            let why = if at.seq < at.next_seq {
                "too late for this code: it had been handed out"
            } else {
                "the upload was undone"
            };
            step(voided_at, "undone", None, why.to_owned())
        }));
        steps
    }

    /// The steps of one customer with one bank (and channel): each code given, each batch in which it was kept. `only`
    /// narrows to the code given in that draw and to what replaced it.
    fn follow(
        &self,
        life: &mut Life,
        known: &Known,
        chain: &[GivenCode],
        only: Option<i32>,
        reader: Option<&ListReader<'_>>,
    ) {
        let Some(first) = chain.first() else { return };
        let own = known.draws.iter().filter(|batch| {
            batch.bank_id == first.bank_id && batch.hold_channel.as_deref() == Some(first.channel.as_str())
        });
        for batch in own {
            let Some(draw) = batch.draw else { continue };
            let before = chain.iter().rfind(|given| given.draw < draw);
            let given = chain.iter().find(|given| given.draw == draw);
            let follows = |only| before.is_some_and(|before| before.persistent && before.draw == only);
            let relevant = only.is_none_or(|only| only == draw || follows(only));
            match (given, before) {
                (Some(given), _) if relevant => {
                    let listed = reader.map(|reader| reader.find(self, batch, &given.customer));
                    life.steps.push(self.given_step(
                        known,
                        batch,
                        (given, before),
                        listed,
                        only.is_some_and(|only| only != draw),
                    ));
                }
                (None, Some(held)) if relevant && held.persistent => {
                    match reader.map(|reader| reader.find(self, batch, &held.customer)) {
                        Some(listed @ Listed::Line(_)) => life.steps.push(kept_step(batch, held, listed)),
                        Some(Listed::No) => {}
                        Some(Listed::Unknown) | None => life.unknown_batches.push(batch.id),
                    }
                }
                _ => {}
            }
        }
        for given in chain.iter().filter(|given| only.is_none_or(|only| only == given.draw)) {
            life.steps.extend(self.lapse_step((&given.bank, &given.code), given.end_date, Some(&given.customer)));
        }
    }

    /// A code was given. `replaced`: said about the code that was held before, not about the new one.
    fn given_step(
        &self,
        known: &Known,
        batch: &ListedBatch,
        (given, before): (&GivenCode, Option<&GivenCode>),
        listed: Option<Listed>,
        replaced: bool,
    ) -> Step {
        let outcome = Outcome::from_stored(given.outcome).unwrap_or(Outcome::New);
        let lost = match (outcome, before) {
            (Outcome::ReplacedRedeemed, Some(before)) => match known.redeemed.get(&before.code) {
                Some(redemption) => format!(
                    "the code held, {}, was redeemed (upload {}, {}, line {})",
                    before.code, redemption.upload_id, redemption.upload_name, redemption.line
                ),
                None => format!("the code held, {}, was redeemed", before.code),
            },
            (Outcome::ReplacedLapsed, Some(before)) => {
                let end = before.end_date.map_or_else(String::new, |date| format!(" until {date} only"));
                format!("the code held, {}, had lapsed: it could be handed out{end}", before.code)
            }
            (Outcome::New, _) if !given.persistent => format!("`{}` gives a new code in every batch", given.bank),
            _ => match given.channel.as_str() {
                "" => format!("held no code of `{}`", given.bank),
                channel => format!("held no code of `{}` for {channel}", given.bank),
            },
        };
        let subject = before.filter(|_| replaced).unwrap_or(given);
        Step {
            at: moment(batch),
            what: if replaced { "replaced" } else { outcome.as_str() },
            bank: Some(subject.bank.clone()),
            code: Some(subject.code.clone()),
            customer: Some(subject.customer.clone()),
            file: Some(list_of(batch, listed)),
            batch: Some(batch_ref(batch)),
            why: if replaced { format!("by {}: {lost}", given.code) } else { lost },
        }
    }

    /// The end of a window, if it has come.
    fn lapse_step(
        &self,
        (bank, code): (&str, &str),
        end_date: Option<NaiveDate>,
        customer: Option<&str>,
    ) -> Option<Step> {
        let end_date = end_date?;
        let at = window::end(end_date, self.namespace.timezone);
        (at <= self.now).then(|| Step {
            at,
            what: "lapsed",
            bank: Some(bank.to_owned()),
            code: Some(code.to_owned()),
            customer: customer.map(ToOwned::to_owned),
            file: None,
            batch: None,
            why: format!("its end date was {end_date}; it is not handed out or kept any more"),
        })
    }

    fn state(&self, at: &BankedCode, given: Option<&GivenCode>, redeemed: bool, replaced: bool) -> &'static str {
        let open = window::is_open(at.end_date, window::open_on(self.now, self.namespace.timezone));
        match given {
            _ if redeemed => "redeemed",
            Some(_) if replaced => "replaced",
            None if at.voided_at.is_some() => "void",
            _ if !open => "lapsed",
            Some(_) => "held",
            None => "in stock",
        }
    }

    /// What a customer has of a bank: the newest code, and in a bank that gives a new one each time all of them.
    fn held(&self, given: &GivenCode, redeemed: bool, newest: bool) -> Option<Standing> {
        let open = window::is_open(given.end_date, window::open_on(self.now, self.namespace.timezone));
        let state = match (redeemed, open) {
            (true, _) => "redeemed",
            (false, false) => "lapsed",
            (false, true) => "held",
        };
        (newest || !given.persistent).then(|| Standing {
            bank: given.bank.clone(),
            code: given.code.clone(),
            state,
            end_date: given.end_date,
            customer: Some(given.customer.clone()),
            channel: Some(given.channel.clone()).filter(|channel| !channel.is_empty()),
        })
    }
}

fn by_code(redeemed: Vec<RedeemedCode>) -> HashMap<String, RedeemedCode> {
    redeemed.into_iter().map(|redemption| (redemption.code.clone(), redemption)).collect()
}

fn standing(at: &BankedCode, given: Option<&GivenCode>, state: &'static str) -> Standing {
    Standing {
        bank: at.bank.clone(),
        code: at.code.clone(),
        state,
        end_date: at.end_date,
        customer: given.map(|given| given.customer.clone()),
        channel: given.map(|given| given.channel.clone()).filter(|channel| !channel.is_empty()),
    }
}

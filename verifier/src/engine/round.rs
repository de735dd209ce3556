//! One batch, from opening to answers.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    time::Instant,
};

use keywitness_circuits::{
    Digest, Error, HsmId, Verified,
    context::instance_digest,
    registry::{DecodedInstance, Opened},
};
use rayon::prelude::*;

use super::{
    EngineError, Priority, Shared, Work,
    narrow::narrow,
    queue::{Batch, Job},
    ticket::Verdict,
};

/// Below this many proofs, a set that fails is checked one by one: checking together gains too little to look further.
const FLOOR: usize = 4;

/// A proof that was read.
struct Ready {
    job: Job,
    opened: Opened,
    /// The instance, where the cache did not have it.
    new: Option<DecodedInstance>,
}

/// Answers every job of a batch. Runs in the pool.
pub(super) fn run(shared: &Arc<Shared>, batch: Batch) {
    let Batch { kind, class, jobs } = batch;
    let (count, began) = (jobs.len(), Instant::now());
    // Whatever panics outside the checks, whose panics are caught one by one, drops its jobs, which answers them.
    if catch_unwind(AssertUnwindSafe(|| judge(shared, jobs))).is_err() {
        shared.lock().stats.panics += 1;
    }
    shared.ended(kind, class, count, began.elapsed());
}

fn judge(shared: &Shared, jobs: Vec<Job>) {
    let ready: Vec<Ready> = jobs
        .into_par_iter()
        .filter(|job| !job.slot.is_abandoned())
        .filter_map(|job| match caught(shared, || read(shared, &job.work)) {
            Ok((opened, new)) => Some(Ready { job, opened, new }),
            Err(error) => {
                job.slot.answer(Err(error));
                None
            }
        })
        .collect();
    let (isolated, common): (Vec<_>, Vec<_>) =
        groups(shared, ready).into_iter().partition(|((own, _), _)| own.is_some());
    common.into_iter().for_each(|(_, group)| decide(shared, false, group));
    isolated.into_par_iter().for_each(|(_, group)| decide(shared, true, group));
}

/// Reads a proof, and its instance unless it is known; says which one is new.
fn read(shared: &Shared, Work { claim, .. }: &Work) -> Result<(Opened, Option<DecodedInstance>), Error> {
    // By the digest of these very bytes, whatever the claim says of them.
    let digest = instance_digest(&claim.instance);
    let known = shared.instances().get(&digest);
    let new = known.is_none();
    let instance = known.map_or_else(|| DecodedInstance::read(&claim.instance), Ok)?;
    let opened = shared.backend.open(&claim.context, &instance, &claim.proof)?;
    Ok((opened, new.then_some(instance)))
}

/// Those that are checked together: those of isolated sources by source.
fn groups(shared: &Shared, ready: Vec<Ready>) -> BTreeMap<(Option<HsmId>, Digest), Vec<Ready>> {
    let (now, inner) = (Instant::now(), shared.lock());
    let mut groups: BTreeMap<_, Vec<Ready>> = BTreeMap::new();
    for one in ready {
        let source = &one.job.work.source;
        let isolated = inner.suspects.isolates(source, now).then(|| source.clone());
        let (_, verifying_key) = one.opened.group();
        groups.entry((isolated, verifying_key)).or_default().push(one);
    }
    groups
}

/// Checks a group together and, where that fails, finds out whose fault it is.
///
/// Nobody is refused but by a check of that proof alone.
fn decide(shared: &Shared, isolated: bool, mut group: Vec<Ready>) {
    // A source's proofs stand together, so that those of a bad one are cut off together.
    group.sort_by(|one, other| one.job.work.source.cmp(&other.job.work.source));
    shared.lock().stats.began(group.len());
    let together = |part: &[Ready]| {
        let opened: Vec<&Opened> = part.iter().map(|one| &one.opened).collect();
        let verified = caught(shared, || shared.backend.check(&opened))?;
        if verified.len() == part.len() { Ok(verified) } else { Err(EngineError::Internal) }
    };
    let accept = |part: &[Ready], verified: Vec<Verified>| {
        // Before anyone is answered: who asks next is judged by this.
        forgive(shared, part);
        part.iter().zip(verified).for_each(|(one, verified)| finish(shared, one, Ok(verified)));
    };
    let first = together(&group);
    match first {
        Ok(verified) => return accept(&group, verified),
        Err(error) if group.len() == 1 => {
            group.iter().for_each(|one| accuse(shared, one));
            return group.iter().for_each(|one| finish(shared, one, Err(error.clone())));
        }
        Err(_) => {}
    }
    shared.lock().stats.splits += 1;
    // The proofs of one isolated source are not searched: when some are bad, many may be.
    let floor = if isolated { group.len() } else { FLOOR };
    let rest = narrow(group.len(), floor, |range| {
        let Some(part) = group.get(range) else { return false };
        together(part).map(|verified| accept(part, verified)).is_ok()
    });
    let singles: Vec<(&Ready, Verdict)> = rest
        .into_par_iter()
        .filter_map(|at| group.get(at))
        .map(|one| {
            (one, together(std::slice::from_ref(one)).and_then(|mut one| one.pop().ok_or(EngineError::Internal)))
        })
        .collect();
    for (one, verdict) in singles {
        match verdict {
            Ok(verified) => accept(std::slice::from_ref(one), vec![verified]),
            Err(error) => {
                accuse(shared, one);
                finish(shared, one, Err(error));
            }
        }
    }
}

/// Answers one proof.
fn finish(shared: &Shared, one: &Ready, verdict: Verdict) {
    if verdict.is_ok()
        && let Some(new) = &one.new
    {
        shared.instances().insert(new.clone(), one.job.work.claim.instance.len());
    }
    one.job.slot.answer(verdict);
}

/// Holds a bad proof against its source. An audit's work was not sent by the source that its contexts name.
fn accuse(shared: &Shared, one: &Ready) {
    if one.job.work.priority == Priority::Audit {
        return;
    }
    shared.lock().suspects.bad(&one.job.work.source, Instant::now());
}

fn forgive(shared: &Shared, part: &[Ready]) {
    let (now, mut inner) = (Instant::now(), shared.lock());
    part.iter().for_each(|one| inner.suspects.good(&one.job.work.source, now));
}

/// Calls a proof system, whose panics are the engine's errors.
fn caught<T>(shared: &Shared, call: impl FnOnce() -> Result<T, Error>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(EngineError::Refused),
        Err(_) => {
            shared.lock().stats.panics += 1;
            Err(EngineError::Internal)
        }
    }
}

impl Shared {
    /// The cache. It is never held while a proof system works.
    fn instances(&self) -> std::sync::MutexGuard<'_, super::instances::Instances> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! How often a caller may ask: one budget for each HSM, credential and address, in bounded memory.
//!
//! A budget is a leaky bucket (GCRA). An HSM's is spent only once its identity signature verified, so that nobody spends
//! it in its name; until then, and for whoever has no identity, the address pays. Mistakes cost more than requests: who
//! guesses credentials, forges signatures or sends wrong proofs is soon slowed, and whoever makes none hardly ever.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};
use keywitness_circuits::{HsmId, Timestamp};
use keywitness_verifier::{
    evidence::MAX_EVIDENCE,
    wire::{CredentialId, LimitedCaller, Problem, ProblemKind},
};

/// Most callers that have a budget of their own. Beyond them strangers share budgets, [`CROWDS`] in all.
const CALLERS: usize = 65_536;

/// Budgets that strangers share once too many are known.
const CROWDS: u64 = 256;

/// Most callers that are named as limited.
const NAMED: usize = 64;

/// How often one caller is named in the log, at most.
const SILENCE: Duration = Duration::from_secs(60);

/// How much evidence of one HSM may be refused at once, and how much a second from then on, in bytes: all of it is kept in the log. Eight
/// pieces as long as there are, and then one in 5 s.
const REFUSED_AT_ONCE: u64 = 8 * MAX_EVIDENCE as u64;
const REFUSED_A_SECOND: u64 = MAX_EVIDENCE as u64 / 5;

/// Who spends.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// An HSM whose signature verified.
    Hsm(HsmId),
    /// The holder of a credential.
    Credential(CredentialId),
    /// Whoever is at an address; of IPv6, at a /64.
    Address(IpAddr),
    /// One of many addresses that were too many to be told apart.
    Crowd(u64),
}

impl Source {
    /// Whoever is at this address.
    pub fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) if address.is_loopback() => address.into(),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hsm(hsm) => write!(f, "HSM {hsm}"),
            Self::Credential(id) => write!(f, "credential {id}"),
            Self::Address(IpAddr::V4(address)) => write!(f, "address {address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "address {address}/64"),
            Self::Crowd(_) => f.write_str("one of too many addresses"),
        }
    }
}

/// A budget: so many requests at once, and so many a second from then on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// At once.
    pub burst: u32,
    /// A second.
    pub rate: u32,
}

impl Budget {
    /// `burst` at once and `rate` a second; zero counts as one.
    pub const fn new(burst: u32, rate: u32) -> Self {
        Self { burst, rate }
    }
}

/// The limits of one caller of each sort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LimitsConfig {
    /// An HSM's requests.
    pub hsm: Budget,
    /// A credential's requests.
    pub credential: Budget,
    /// A credential's requests for everything at once, such as the status of every key.
    pub overview: Budget,
    /// An address's requests, whoever makes them.
    pub address: Budget,
    /// How many requests one mistake costs: a wrong proof, signature or credential, or what cannot be read.
    pub mistake: u32,
    /// Whether addresses on loopback are limited. A proxy in front speaks for everybody from there.
    pub loopback: bool,
}

impl Default for LimitsConfig {
    /// An HSM may ask 2,000 times a second, 40,000 times at once: 10,000 keys, all due together. A credential may ask 5,000
    /// times a second, and an address 10,000. A mistake costs as much as 50 requests.
    fn default() -> Self {
        Self {
            hsm: Budget::new(40_000, 2_000),
            credential: Budget::new(20_000, 5_000),
            overview: Budget::new(200, 50),
            address: Budget::new(100_000, 10_000),
            mistake: 50,
            loopback: false,
        }
    }
}

/// How many connections there may be, and how long one may lie idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionsConfig {
    /// From one address; of IPv6, one /64.
    pub each: usize,
    /// In all.
    pub all: usize,
    /// How long a connection may be open while no request on it is being answered.
    pub idle: Duration,
    /// How long a stream's reader may take nothing of what waits for it.
    pub stall: Duration,
    /// Whether loopback counts as an address: a proxy in front connects from there for everybody.
    pub loopback: bool,
}

impl Default for ConnectionsConfig {
    /// 256 from one address, 4,096 in all, 30 seconds, and for readers of streams a minute.
    fn default() -> Self {
        Self { each: 256, all: 4096, idle: Duration::from_secs(30), stall: Duration::from_secs(60), loopback: false }
    }
}

type Limiter = RateLimiter<Source, HashMapStateStore<Source>, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// Budgets that are alike, one for each caller.
struct Pool {
    limiter: Limiter,
    clock: MonotonicClock,
    burst: NonZeroU32,
    rate: NonZeroU32,
    /// Until when those are not heard who could not pay for a mistake.
    unheard: Mutex<HashMap<Source, Instant>>,
    swept: Mutex<Option<Instant>>,
    hasher: RandomState,
}

impl Pool {
    fn new(budget: Budget) -> Self {
        let (burst, rate) = (at_least_one(budget.burst), at_least_one(budget.rate));
        let quota = Quota::per_second(rate).allow_burst(burst);
        Self {
            burst,
            rate,
            limiter: RateLimiter::hashmap_with_clock(quota, MonotonicClock),
            clock: MonotonicClock,
            unheard: Mutex::default(),
            swept: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// Spends `count`, and says how long to wait where they are not there. What costs more than the budget holds
    /// costs all of it.
    fn spend(&self, source: &Source, count: NonZeroU32) -> Result<(), Duration> {
        let source = self.seat(source);
        let now = self.clock.now();
        if let Some(wait) = lock(&self.unheard).get(&source).and_then(|until| until.checked_duration_since(now)) {
            return Err(wait);
        }
        let wait = match self.limiter.check_key_n(&source, count.min(self.burst)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(not_until)) => not_until.wait_time_from(self.clock.now()),
            Err(_) => Duration::from_secs(1),
        };
        Err(wait)
    }

    /// Charges `price`, and says whether it was there. A caller who has less pays all of it, and owes the price: it is not
    /// heard for as long as that takes to come together, or one request would buy a mistake. Nobody owes more than a whole
    /// budget.
    fn fine(&self, source: &Source, price: NonZeroU32) -> bool {
        if self.spend(source, price).is_ok() {
            return true;
        }
        let (mut part, mut owed) = (NonZeroU32::new(price.get() / 2), price.get());
        while let Some(cost) = part {
            owed -= if self.spend(source, cost).is_ok() { cost.get() } else { 0 };
            part = NonZeroU32::new(cost.get() / 2);
        }
        let most = Duration::from_secs(self.burst.get().into()) / self.rate.get();
        let (now, seat) = (self.clock.now(), self.seat(source));
        let mut unheard = lock(&self.unheard);
        if unheard.len() >= CALLERS {
            unheard.retain(|_, until| *until > now);
        }
        let until = unheard.entry(seat).or_insert(now);
        // What comes together while it is not heard stays there, and would pay for the next mistake.
        let kept = if *until > now { 0 } else { price.get() };
        let wait = Duration::from_secs(u64::from(owed) + u64::from(kept)) / self.rate.get();
        *until = ((*until).max(now) + wait).min(now + most);
        false
    }

    /// A budget of its own while there is room, and else a share of a crowd's.
    fn seat(&self, source: &Source) -> Source {
        if self.limiter.len() < CALLERS {
            return source.clone();
        }
        let mut swept = lock(&self.swept);
        if swept.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            *swept = Some(Instant::now());
            // Whoever has a full budget again needs no row.
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        match source {
            Source::Address(_) if self.limiter.len() >= CALLERS => Source::Crowd(self.hasher.hash_one(source) % CROWDS),
            // HSMs and credentials are as many as operators let in.
            _ => source.clone(),
        }
    }
}

/// Somebody who was turned away.
struct Limited {
    source: Source,
    refused: u64,
    last_at: Timestamp,
    told: Instant,
}

/// The limits in force, and who ran into them.
pub struct Limits {
    config: LimitsConfig,
    hsms: Pool,
    credentials: Pool,
    overviews: Pool,
    addresses: Pool,
    limited: Mutex<HashMap<Source, Limited>>,
    /// How many bytes of evidence were refused that are not yet made up for, as of when.
    refused: Mutex<HashMap<Source, (u64, Timestamp)>>,
}

/// What is left at `now` of so many bytes that were refused.
const fn left(&(bytes, at): &(u64, Timestamp), now: Timestamp) -> u64 {
    bytes.saturating_sub(now.since(at).saturating_mul(REFUSED_A_SECOND))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Limits {
    /// Full budgets for everybody.
    pub fn new(config: LimitsConfig) -> Self {
        Self {
            hsms: Pool::new(config.hsm),
            credentials: Pool::new(config.credential),
            overviews: Pool::new(config.overview),
            addresses: Pool::new(config.address),
            limited: Mutex::default(),
            refused: Mutex::default(),
            config,
        }
    }

    /// Spends `count` requests of a caller's budget at `now`.
    ///
    /// # Errors
    /// `too-many-requests`, with the seconds after which they will be there. Nothing was spent.
    pub fn spend(&self, source: &Source, count: u32, now: Timestamp) -> Result<(), Problem> {
        let Some(count) = NonZeroU32::new(count).filter(|_| !self.exempt(source)) else { return Ok(()) };
        self.pool(source).spend(source, count).map_err(|wait| self.refuse(source, wait, now))
    }

    /// Spends one of the requests for everything at once, which are fewer.
    ///
    /// # Errors
    /// `too-many-requests`
    pub fn spend_overview(&self, source: &Source, now: Timestamp) -> Result<(), Problem> {
        self.overviews.spend(source, NonZeroU32::MIN).map_err(|wait| self.refuse(source, wait, now))
    }

    /// Charges a mistake, and says whether the budget held its whole price. Whoever has less is not heard until it has.
    pub fn mistake(&self, source: &Source) -> bool {
        let price = NonZeroU32::new(self.config.mistake).filter(|_| !self.exempt(source));
        price.is_none_or(|price| self.pool(source).fine(source, price))
    }

    /// Whether evidence is heard: not while so much of it was refused that the log would grow by it without end.
    ///
    /// # Errors
    /// `too-many-requests`, with the seconds after which it will be.
    pub fn hear_evidence(&self, source: &Source, now: Timestamp) -> Result<(), Problem> {
        let left = lock(&self.refused).get(source).map_or(0, |refused| left(refused, now));
        match left.checked_sub(REFUSED_AT_ONCE) {
            None => Ok(()),
            Some(over) => Err(self.refuse(source, Duration::from_secs(over / REFUSED_A_SECOND + 1), now)),
        }
    }

    /// Charges evidence that was refused, by its length.
    pub fn refused_evidence(&self, source: &Source, bytes: usize, now: Timestamp) {
        let mut refused = lock(&self.refused);
        refused.retain(|_, refused| left(refused, now) > 0);
        let (sum, at) = refused.entry(source.clone()).or_insert((0, now));
        (*sum, *at) = (left(&(*sum, *at), now).saturating_add(bytes as u64), now.max(*at));
    }

    /// What a caller who cannot pay for its mistakes is told, instead of looking at what else it sent.
    pub fn too_many_mistakes(&self, source: &Source, now: Timestamp) -> Problem {
        self.refuse(source, Duration::from_secs(1), now)
    }

    /// Who was turned away since the start, the most recent first; at most 64 of them.
    pub fn limited(&self) -> Vec<LimitedCaller> {
        let limited = lock(&self.limited);
        let mut rows: Vec<_> = limited
            .values()
            .map(|row| LimitedCaller { caller: row.source.to_string(), refused: row.refused, last_at: row.last_at })
            .collect();
        rows.sort_unstable_by(|a, b| (b.last_at, &a.caller).cmp(&(a.last_at, &b.caller)));
        rows
    }

    /// Whether nothing that concerns one caller alone is asked of this source.
    pub(crate) fn exempt(&self, source: &Source) -> bool {
        matches!(source, Source::Address(address) if address.is_loopback() && !self.config.loopback)
    }

    const fn pool(&self, source: &Source) -> &Pool {
        match source {
            Source::Hsm(_) => &self.hsms,
            Source::Credential(_) => &self.credentials,
            Source::Address(_) | Source::Crowd(_) => &self.addresses,
        }
    }

    fn refuse(&self, source: &Source, wait: Duration, now: Timestamp) -> Problem {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.name(source, now);
        Problem::new(ProblemKind::TooManyRequests, format!("{source} asks more often than this manager allows"))
            .after(seconds.clamp(1, u16::MAX.into()).try_into().unwrap_or(u16::MAX))
    }

    fn name(&self, source: &Source, now: Timestamp) {
        let mut limited = lock(&self.limited);
        if !limited.contains_key(source) && limited.len() >= NAMED {
            let oldest = limited.values().min_by_key(|row| row.told).map(|row| row.source.clone());
            oldest.map(|oldest| limited.remove(&oldest));
        }
        let mut tell = false;
        let row = limited.entry(source.clone()).or_insert_with(|| {
            tell = true;
            Limited { source: source.clone(), refused: 0, last_at: now, told: Instant::now() }
        });
        (row.refused, row.last_at) = (row.refused.saturating_add(1), now);
        if tell || row.told.elapsed() > SILENCE {
            row.told = Instant::now();
            tracing::warn!(caller = %source, refused = row.refused, "turned away, since it asks too often");
        }
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("config", &self.config).finish_non_exhaustive()
    }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(7);

    fn limits(burst: u32) -> Limits {
        let budget = Budget::new(burst, 1);
        Limits::new(LimitsConfig { hsm: budget, address: budget, mistake: 4, ..LimitsConfig::default() })
    }

    fn hsm(name: &str) -> Source {
        Source::Hsm(name.parse().unwrap())
    }

    fn refused(result: Result<(), Problem>) -> u16 {
        let problem = result.unwrap_err();
        assert_eq!(problem.kind(), Some(ProblemKind::TooManyRequests));
        problem.retry_after.unwrap()
    }

    #[test]
    fn who_asks_too_often_is_told_when_to_come_back_and_is_named_and_others_are_not_kept() {
        let limits = limits(8);
        for _ in 0..8 {
            limits.spend(&hsm("busy"), 1, NOW).unwrap();
        }
        assert_eq!(refused(limits.spend(&hsm("busy"), 1, NOW)), 1);
        assert!((7..=8).contains(&refused(limits.spend(&hsm("busy"), 8, NOW))));
        limits.spend(&hsm("other"), 8, NOW).unwrap();
        let named = limits.limited();
        assert_eq!((named.len(), named[0].caller.as_str(), named[0].refused), (1, "HSM busy", 2));
        assert_eq!(named[0].last_at, NOW);
    }

    #[test]
    fn mistakes_cost_more_than_requests_and_nobody_is_silenced_for_long() {
        let limits = limits(10);
        assert!(limits.mistake(&hsm("wrong")));
        limits.spend(&hsm("wrong"), 6, NOW).unwrap();
        assert!(!limits.mistake(&hsm("wrong")));
        assert!((7..=8).contains(&refused(limits.spend(&hsm("wrong"), 1, NOW))));
        for _ in 0..100 {
            assert!(!limits.mistake(&hsm("wrong")));
        }
        assert!((9..=10).contains(&refused(limits.spend(&hsm("wrong"), 1, NOW))), "nobody owes more than a budget");
        assert_eq!(limits.limited()[0].refused, 2, "a mistake alone turns nobody away");
    }

    #[test]
    fn one_request_does_not_buy_a_mistake() {
        // A thousand requests a second, and a price of a hundred: ten mistakes a second, and one at once.
        let limits = Limits::new(LimitsConfig { hsm: Budget::new(200, 1000), mistake: 100, ..LimitsConfig::default() });
        let (begun, mut made) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_millis(500) {
            if limits.spend(&hsm("wrong"), 1, NOW).is_ok() {
                limits.mistake(&hsm("wrong"));
                made += 1;
            }
        }
        let most = 3 + begun.elapsed().as_millis() / 100;
        assert!(made <= most, "{made} mistakes were heard, and {most} at most were paid");
    }

    #[test]
    fn refused_evidence_is_heard_no_faster_than_the_log_may_grow() {
        let limits = limits(8);
        let (rogue, honest) = (hsm("rogue"), hsm("honest"));
        let (mut heard, mut turned_away) = (0, 0);
        for second in 0..100 {
            for _ in 0..50 {
                match limits.hear_evidence(&rogue, Timestamp(second)) {
                    Ok(()) => {
                        heard += 1;
                        limits.refused_evidence(&rogue, MAX_EVIDENCE, Timestamp(second));
                    }
                    problem => {
                        turned_away += 1;
                        assert!((1..=5).contains(&refused(problem)));
                    }
                }
            }
            limits.hear_evidence(&honest, Timestamp(second)).unwrap();
        }
        assert!((8..=8 + 100 / 5).contains(&heard), "{heard} were heard, {turned_away} were not");
        // What was being judged at the same time is made up for afterwards; and a clock that goes back forgives nothing.
        limits.refused_evidence(&rogue, 100 * MAX_EVIDENCE, Timestamp(100));
        limits.refused_evidence(&rogue, 1, Timestamp(10));
        assert!(refused(limits.hear_evidence(&rogue, Timestamp(400))) > 100);
        limits.hear_evidence(&rogue, Timestamp(700)).unwrap();
        limits.refused_evidence(&honest, 1, Timestamp(700));
        assert_eq!(lock(&limits.refused).len(), 1, "whoever owes nothing needs no row");
    }

    #[test]
    fn what_strangers_make_us_remember_is_bounded() {
        let limits = limits(2);
        let address = |n: u32| Source::address(IpAddr::from(n.to_be_bytes()));
        for n in 0..(CALLERS as u32 + 5_000) {
            drop(limits.spend(&address(0x0100_0000 + n), 2, NOW));
            drop(limits.spend(&address(0x0100_0000 + n), 2, NOW));
        }
        assert!(limits.addresses.limiter.len() <= CALLERS + CROWDS as usize);
        assert!(limits.limited().len() <= NAMED);
    }

    #[test]
    fn an_ipv6_network_is_one_caller_and_loopback_is_exempt() {
        let of = |text: &str| Source::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        let limits = limits(1);
        for loopback in ["127.0.0.1", "::1"] {
            for _ in 0..9 {
                limits.spend(&of(loopback), 1, NOW).unwrap();
                limits.mistake(&of(loopback));
            }
        }
        limits.spend(&of("192.0.2.1"), 1, NOW).unwrap();
        refused(limits.spend(&of("192.0.2.1"), 1, NOW));
    }
}

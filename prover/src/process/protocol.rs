//! What an agent asks of its proving process: each message is one canonical encoding in a frame.
//!
//! A request names no secret and an answer holds none, but for [`Answer::Opened`], which is for the agent to read. A proving process in a
//! trusted execution environment would answer the same over another transport.

use std::io;

use keywitness_circuits::{
    ClaimContext, ClusterId, Error, HsmId, Instance, Nonce, Suite, TrustDomain,
    codec::{Canonical, MAX_BYTES, Reader, Writer},
    share_correctness::Scheme,
};
use keywitness_custody::{Complaint, Dealing, SealingKey, Terms};
use keywitness_isolation::frame;
use keywitness_verifier::{
    channel::AnswerKey,
    identity::{Audience, IdentityKey},
    operation::{MAX_REQUEST, Operation, OperationRequest},
    transfer::{Transfer, Withheld},
    wire::{Base64, Enrolment, KeyRef},
};
use zeroize::Zeroizing;

use super::error::Failure;
use crate::store::{KeyEntry, Membership, Received};

/// Longest frame, in bytes: a list of keys.
pub(super) const MAX_FRAME: usize = 16 * 1024 * 1024;

/// Most keys in a list.
const MAX_KEYS: u32 = 100_000;

/// Most keys of one proof, or suites, or instances of one key.
const MAX_MANY: u16 = 256;

/// Longest instance, proof or report, in bytes.
const MAX_BODY: usize = 1024 * 1024;

pub(super) enum Request {
    Hello,
    SignIdentity {
        message: Vec<u8>,
    },
    Open {
        trust_domain: TrustDomain,
        hsm: HsmId,
        sealed: Vec<u8>,
    },
    SetMembership(Membership),
    /// Which listing the caller has.
    Keys {
        known: Nonce,
    },
    Instances {
        key: KeyRef,
        trust_domain: TrustDomain,
        suites: Vec<Suite>,
    },
    TaggedInstance {
        key: KeyRef,
        trust_domain: TrustDomain,
        beacon: Nonce,
    },
    SealingKey,
    Deal {
        key: KeyRef,
        terms: Terms,
        scheme: Scheme,
    },
    ReceiveShare {
        dealing: Box<Dealing>,
        dealer: IdentityKey,
        cluster: ClusterId,
    },
    Prove {
        context: Box<ClaimContext>,
        instance: Vec<u8>,
        key: KeyRef,
    },
    ProveMany {
        context: Box<ClaimContext>,
        instance: Vec<u8>,
        keys: Vec<KeyRef>,
    },
    Sign {
        key: KeyRef,
        message: Vec<u8>,
    },
    Examine,
    GiveCopies {
        request: Box<OperationRequest>,
        withheld: Vec<Withheld>,
    },
    TakeCopy {
        transfer: Box<Transfer>,
        giver: IdentityKey,
        key: KeyRef,
        expected: Vec<Instance>,
    },
    AskCopies {
        from: HsmId,
        keys: Vec<KeyRef>,
    },
    SignEnrolment {
        audience: Audience,
        join_token: Zeroizing<Vec<u8>>,
        hsm: HsmId,
    },
}

pub(super) enum Answer {
    Hello {
        identity: IdentityKey,
        channel_key: [u8; 32],
        membership: Option<Membership>,
        /// How many proofs or signatures are made at once.
        parallel: u16,
    },
    Signature([u8; 64]),
    Opened(Box<OperationRequest>, AnswerKey),
    /// What does not open, and whether that is because it is no request.
    Unopened {
        malformed: bool,
    },
    Done,
    /// Those that are known already.
    SameKeys,
    Keys {
        listing: Nonce,
        keys: Vec<Listed>,
    },
    Instances(Vec<Instance>),
    SealingKey(SealingKey),
    Dealing(Box<Dealing>),
    Received(Received),
    Proof(Vec<u8>),
    /// JSON.
    Examined(Vec<u8>),
    Failed(Failure),
    Copies(Box<Transfer>),
    Taken(KeyEntry),
    Asked(Box<OperationRequest>),
}

/// A key, and the key that it is derived from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    pub(super) entry: KeyEntry,
    pub(super) master: Option<KeyRef>,
}

/// Reads a message of a frame.
pub(super) fn read<T: Canonical>(body: &[u8]) -> io::Result<T> {
    T::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Reads a frame's message; none where the other end closed the lane.
pub(super) fn receive<T: Canonical>(stream: &mut impl io::Read) -> io::Result<Option<T>> {
    frame::receive(stream, MAX_FRAME)?.map(|body| read(&body)).transpose()
}

/// Writes a message in a frame.
pub(super) fn send(stream: &mut impl io::Write, message: &impl Canonical) -> io::Result<()> {
    frame::send(stream, &zeroize::Zeroizing::new(message.to_bytes()), MAX_FRAME)
}

pub(super) fn text(reader: &mut Reader<'_>, cap: usize) -> Result<String, Error> {
    let error = reader.error("a text is not UTF-8");
    String::from_utf8(reader.bytes(cap)?.to_vec()).map_err(|_| error)
}

pub(super) fn put_key<'a>(writer: &'a mut Writer, key: &KeyRef) -> &'a mut Writer {
    writer.value(&key.key).u32(key.epoch)
}

pub(super) fn key(reader: &mut Reader<'_>) -> Result<KeyRef, Error> {
    Ok(KeyRef { key: reader.value()?, epoch: reader.u32()? })
}

fn put_many<'a, T>(
    writer: &'a mut Writer,
    items: &[T],
    put: impl for<'b> Fn(&'b mut Writer, &T) -> &'b mut Writer,
) -> &'a mut Writer {
    // More than a reader takes are too many to read.
    writer.u16(u16::try_from(items.len()).unwrap_or(u16::MAX));
    for item in items {
        put(writer, item);
    }
    writer
}

fn many<T>(
    reader: &mut Reader<'_>,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let count = reader.u16()?;
    if count > MAX_MANY {
        return Err(reader.error("there are too many"));
    }
    (0..count).map(|_| read(reader)).collect()
}

fn put_entry<'a>(writer: &'a mut Writer, entry: &KeyEntry) -> &'a mut Writer {
    put_key(writer, &entry.key).value(&entry.attributes)
}

fn entry(reader: &mut Reader<'_>) -> Result<KeyEntry, Error> {
    Ok(KeyEntry { key: key(reader)?, attributes: reader.value()? })
}

fn identity(reader: &mut Reader<'_>) -> Result<IdentityKey, Error> {
    IdentityKey::from_bytes(reader.array()?)
}

fn instance(reader: &mut Reader<'_>) -> Result<Instance, Error> {
    reader.value()
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Error> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.error("a flag is neither 0 nor 1")),
    }
}

const SUITES: [Suite; 4] = [Suite::PublicKey, Suite::Halo2Pasta, Suite::Groth16Bn254, Suite::Halo2PastaTag];

fn put_suite<'a>(writer: &'a mut Writer, suite: &Suite) -> &'a mut Writer {
    let number = SUITES.iter().position(|known| known == suite).and_then(|number| u8::try_from(number).ok());
    writer.u8(number.unwrap_or(u8::MAX))
}

fn put_value<'a, T: Canonical>(writer: &'a mut Writer, value: &T) -> &'a mut Writer {
    writer.value(value)
}

fn suite(reader: &mut Reader<'_>) -> Result<Suite, Error> {
    let number = usize::from(reader.u8()?);
    SUITES.get(number).copied().ok_or(reader.error("there is no such suite"))
}

fn put_audience<'a>(writer: &'a mut Writer, audience: &Audience) -> &'a mut Writer {
    writer.value(&audience.trust_domain).value(&audience.manager)
}

fn audience(reader: &mut Reader<'_>) -> Result<Audience, Error> {
    Ok(Audience { trust_domain: reader.value()?, manager: reader.value()? })
}

impl Canonical for Membership {
    const WHAT: &'static str = "membership";
    fn write(&self, writer: &mut Writer) {
        put_audience(writer, &self.audience).value(&self.hsm);
        match &self.enrolment {
            None => writer.u8(0),
            Some(Enrolment { hsm, cluster, revision }) => writer.u8(1).value(hsm).value(cluster).u32(*revision),
        };
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let audience = audience(reader)?;
        let hsm = reader.value()?;
        let enrolment = match flag(reader)? {
            false => None,
            true => Some(Enrolment { hsm: reader.value()?, cluster: reader.value()?, revision: reader.u32()? }),
        };
        Ok(Self { audience, hsm, enrolment })
    }
}

impl Canonical for Listed {
    const WHAT: &'static str = "key";
    fn write(&self, writer: &mut Writer) {
        put_entry(writer, &self.entry);
        match &self.master {
            None => writer.u8(0),
            Some(master) => put_key(writer.u8(1), master),
        };
    }
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let entry = entry(reader)?;
        let master = if flag(reader)? { Some(key(reader)?) } else { None };
        Ok(Self { entry, master })
    }
}

impl Canonical for Request {
    const WHAT: &'static str = "request to a proving process";

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Hello => writer.u8(0),
            Self::SignIdentity { message } => writer.u8(1).bytes(message),
            Self::Open { trust_domain, hsm, sealed } => writer.u8(2).value(trust_domain).value(hsm).bytes(sealed),
            Self::SetMembership(membership) => writer.u8(3).value(membership),
            Self::Keys { known } => writer.u8(4).value(known),
            Self::Instances { key, trust_domain, suites } => {
                put_many(put_key(writer.u8(5), key).value(trust_domain), suites, put_suite)
            }
            Self::TaggedInstance { key, trust_domain, beacon } => {
                put_key(writer.u8(6), key).value(trust_domain).value(beacon)
            }
            Self::SealingKey => writer.u8(7),
            Self::Deal { key, terms, scheme } => put_key(writer.u8(8), key).value(terms).value(scheme),
            Self::ReceiveShare { dealing, dealer, cluster } => {
                writer.u8(9).value(&**dealing).array(&dealer.to_bytes()).value(cluster)
            }
            Self::Prove { context, instance, key } => put_key(writer.u8(10).value(&**context).bytes(instance), key),
            Self::ProveMany { context, instance, keys } => {
                put_many(writer.u8(11).value(&**context).bytes(instance), keys, put_key)
            }
            Self::Sign { key, message } => put_key(writer.u8(12), key).bytes(message),
            Self::Examine => writer.u8(13),
            Self::GiveCopies { request, withheld } => {
                put_many(put_request(writer.u8(14), request), withheld, put_value)
            }
            Self::TakeCopy { transfer, giver, key, expected } => {
                let writer = put_key(writer.u8(15).value(&**transfer).array(&giver.to_bytes()), key);
                put_many(writer, expected, put_value)
            }
            Self::AskCopies { from, keys } => put_many(writer.u8(16).value(from), keys, put_key),
            Self::SignEnrolment { audience, join_token, hsm } => {
                put_audience(writer.u8(17), audience).bytes(join_token).value(hsm)
            }
        };
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match reader.u8()? {
            0 => Self::Hello,
            1 => Self::SignIdentity { message: reader.bytes(MAX_BODY)?.to_vec() },
            2 => Self::Open {
                trust_domain: reader.value()?,
                hsm: reader.value()?,
                sealed: reader.bytes(MAX_REQUEST)?.to_vec(),
            },
            3 => Self::SetMembership(reader.value()?),
            4 => Self::Keys { known: reader.value()? },
            5 => Self::Instances { key: key(reader)?, trust_domain: reader.value()?, suites: many(reader, suite)? },
            6 => Self::TaggedInstance { key: key(reader)?, trust_domain: reader.value()?, beacon: reader.value()? },
            7 => Self::SealingKey,
            8 => Self::Deal { key: key(reader)?, terms: reader.value()?, scheme: reader.value()? },
            9 => Self::ReceiveShare {
                dealing: Box::new(reader.value()?),
                dealer: identity(reader)?,
                cluster: reader.value()?,
            },
            10 => Self::Prove {
                context: Box::new(reader.value()?),
                instance: reader.bytes(MAX_BODY)?.to_vec(),
                key: key(reader)?,
            },
            11 => Self::ProveMany {
                context: Box::new(reader.value()?),
                instance: reader.bytes(MAX_BODY)?.to_vec(),
                keys: many(reader, key)?,
            },
            12 => Self::Sign { key: key(reader)?, message: reader.bytes(MAX_BYTES)?.to_vec() },
            13 => Self::Examine,
            14 => Self::GiveCopies {
                request: Box::new(request(reader)?),
                withheld: many(reader, |reader| reader.value())?,
            },
            15 => Self::TakeCopy {
                transfer: Box::new(reader.value()?),
                giver: identity(reader)?,
                key: key(reader)?,
                expected: many(reader, instance)?,
            },
            16 => Self::AskCopies { from: reader.value()?, keys: many(reader, key)? },
            17 => Self::SignEnrolment {
                audience: audience(reader)?,
                join_token: Zeroizing::new(reader.bytes(MAX_BODY)?.to_vec()),
                hsm: reader.value()?,
            },
            _ => return Err(reader.error("there is no such request")),
        })
    }
}

fn put_request<'a>(writer: &'a mut Writer, request: &OperationRequest) -> &'a mut Writer {
    writer.array(&request.client.to_bytes()).value(&request.created);
    match &request.operation {
        Operation::Sign { key, message } => put_key(writer.u8(0), key).bytes(&message.0),
        Operation::Copy { hsm, channel_key, keys } => {
            put_many(writer.u8(1).value(hsm).value(channel_key), keys, put_key)
        }
    };
    writer.bytes(&request.signature.0)
}

fn request(reader: &mut Reader<'_>) -> Result<OperationRequest, Error> {
    let (client, created) = (identity(reader)?, reader.value()?);
    let operation = match reader.u8()? {
        0 => Operation::Sign { key: key(reader)?, message: Base64(reader.bytes(MAX_BYTES)?.to_vec()) },
        1 => Operation::Copy { hsm: reader.value()?, channel_key: reader.value()?, keys: many(reader, key)? },
        _ => return Err(reader.error("there is no such operation")),
    };
    let signature = Base64(reader.bytes(MAX_BYTES)?.to_vec());
    Ok(OperationRequest { client, created, operation, signature })
}

impl Canonical for Answer {
    const WHAT: &'static str = "answer of a proving process";

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Hello { identity, channel_key, membership, parallel } => {
                writer.u8(0).array(&identity.to_bytes()).array(channel_key).option(membership.as_ref()).u16(*parallel)
            }
            Self::Signature(signature) => writer.u8(1).array(signature),
            Self::Opened(request, key) => put_request(writer.u8(2), request).array(&key.to_bytes()),
            Self::Unopened { malformed } => writer.u8(3).u8((*malformed).into()),
            Self::Done => writer.u8(4),
            Self::SameKeys => writer.u8(5),
            Self::Keys { listing, keys } => {
                let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
                keys.iter().fold(writer.u8(6).value(listing).u32(count), put_value)
            }
            Self::Instances(instances) => put_many(writer.u8(7), instances, put_value),
            Self::SealingKey(key) => writer.u8(8).value(key),
            Self::Dealing(dealing) => writer.u8(9).value(&**dealing),
            Self::Received(Received::Known) => writer.u8(10).u8(0),
            Self::Received(Received::Kept(entry)) => put_entry(writer.u8(10).u8(1), entry),
            Self::Received(Received::Bad(complaint)) => writer.u8(10).u8(2).value(&**complaint),
            Self::Proof(proof) => writer.u8(11).bytes(proof),
            Self::Examined(report) => writer.u8(12).bytes(report),
            Self::Failed(failure) => writer.u8(13).value(failure),
            Self::Copies(transfer) => writer.u8(14).value(&**transfer),
            Self::Taken(entry) => put_entry(writer.u8(15), entry),
            Self::Asked(request) => put_request(writer.u8(16), request),
        };
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match reader.u8()? {
            0 => Self::Hello {
                identity: identity(reader)?,
                channel_key: reader.array()?,
                membership: reader.option()?,
                parallel: reader.u16()?,
            },
            1 => Self::Signature(reader.array()?),
            2 => Self::Opened(Box::new(request(reader)?), AnswerKey::from_bytes(&reader.array()?)),
            3 => Self::Unopened { malformed: flag(reader)? },
            4 => Self::Done,
            5 => Self::SameKeys,
            6 => {
                let (listing, count) = (reader.value()?, reader.u32()?);
                if count > MAX_KEYS {
                    return Err(reader.error("there are more keys than any store has"));
                }
                Self::Keys { listing, keys: (0..count).map(|_| reader.value()).collect::<Result<_, _>>()? }
            }
            7 => Self::Instances(many(reader, instance)?),
            8 => Self::SealingKey(reader.value()?),
            9 => Self::Dealing(Box::new(reader.value()?)),
            10 => Self::Received(match reader.u8()? {
                0 => Received::Known,
                1 => Received::Kept(entry(reader)?),
                2 => Received::Bad(Box::new(reader.value::<Complaint>()?)),
                _ => return Err(reader.error("a share is known, kept or bad")),
            }),
            11 => Self::Proof(reader.bytes(MAX_BODY)?.to_vec()),
            12 => Self::Examined(reader.bytes(MAX_BODY)?.to_vec()),
            13 => Self::Failed(reader.value()?),
            14 => Self::Copies(Box::new(reader.value()?)),
            15 => Self::Taken(entry(reader)?),
            16 => Self::Asked(Box::new(request(reader)?)),
            _ => return Err(reader.error("there is no such answer")),
        })
    }
}

//! The log: checkpoints, proofs, openings and seals.

use super::{Caller, ClientError, ManagerClient};
use crate::{
    log::{Note, Opening, StateSeal, read_page},
    wire::{self, path},
};

impl ManagerClient {
    /// The keys that sign for the log. Anyone.
    pub fn log_key(&self) -> Result<wire::LogKey, ClientError> {
        self.get(Caller::Anyone, path::LOG_KEY)
    }

    /// The log's newest checkpoint. Anyone.
    pub fn checkpoint(&self) -> Result<Note, ClientError> {
        self.note(path::CHECKPOINT)
    }

    /// The newest checkpoint that so many witnesses have cosigned. Anyone.
    pub fn cosigned(&self, witnesses: usize) -> Result<Note, ClientError> {
        self.note(&format!("{}?witnesses={witnesses}", path::COSIGNED))
    }

    /// A page of the openings after a number. Auditor.
    pub fn openings(&self, after: u64) -> Result<Vec<Opening>, ClientError> {
        let target = format!("{}?after={after}", path::OPENINGS);
        let page = self.bytes(self.request(Caller::Bearer, "GET", &target, Vec::new()))?;
        read_page(&page, after).map_err(|error| ClientError::Malformed(error.to_string()))
    }

    /// Where an entry is in the log's first `size` entries. Anyone.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<wire::InclusionProof, ClientError> {
        self.get(Caller::Anyone, &format!("{}?index={index}&size={size}", path::LOG_PROOF))
    }

    /// That the log of `to` entries begins with that of `from`. Anyone.
    pub fn consistency(&self, from: u64, to: u64) -> Result<wire::ConsistencyProof, ClientError> {
        self.get(Caller::Anyone, &format!("{}?from={from}&to={to}", path::LOG_CONSISTENCY))
    }

    /// The seals of the state. Operator or auditor.
    pub fn seals(&self) -> Result<wire::Seals, ClientError> {
        self.get(Caller::Bearer, path::SEALS)
    }

    /// Seals the state. Operator.
    pub fn seal(&self) -> Result<StateSeal, ClientError> {
        self.call(Caller::Bearer, "POST", path::SEALS, Vec::new())
    }

    /// Deletes the openings that are old enough. Operator.
    pub fn retain(&self) -> Result<wire::Retained, ClientError> {
        self.call(Caller::Bearer, "POST", path::RETENTION, Vec::new())
    }

    /// A part of the state that a seal is of; empty at its end. Auditor.
    pub fn snapshot(&self, sequence: u64, offset: u64) -> Result<Vec<u8>, ClientError> {
        let target = path::SNAPSHOT.replace("{sequence}", &sequence.to_string());
        self.bytes(self.request(Caller::Bearer, "GET", &format!("{target}?offset={offset}"), Vec::new()))
    }

    /// Brings a cosigned checkpoint. Auditor.
    pub fn cosign(&self, note: &Note) -> Result<(), ClientError> {
        self.call(Caller::Bearer, "POST", path::COSIGNATURES, note.to_string().into_bytes())
    }

    fn note(&self, target: &str) -> Result<Note, ClientError> {
        let body = self.bytes(self.request(Caller::Anyone, "GET", target, Vec::new()))?;
        let text = String::from_utf8(body).map_err(|error| ClientError::Malformed(error.to_string()))?;
        text.parse().map_err(|error: keywitness_circuits::Error| ClientError::Malformed(error.to_string()))
    }
}

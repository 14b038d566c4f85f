//! JSON rows of what checks list: synchronization jobs and credentials. New fields need a default.

use serde::{Deserialize, Serialize};

use crate::domain::{CredentialKind, CredentialState, JobState, Standing, Timestamp};

#[derive(Serialize, Deserialize)]
pub(super) struct JobRow {
    id: String,
    quarantined: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_success: Option<i64>,
}

impl JobRow {
    pub(super) fn of(job: &JobState) -> Self {
        Self {
            id: job.id.clone(),
            quarantined: job.quarantined,
            last_success: job.last_success.map(|at| at.0),
        }
    }

    pub(super) fn state(self) -> JobState {
        JobState {
            id: self.id,
            quarantined: self.quarantined,
            last_success: self.last_success.map(Timestamp),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct CredentialRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reader: Option<String>,
    kind: String,
    key_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thumbprint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<i64>,
    #[serde(default)]
    in_use: bool,
    standing: String,
}

impl CredentialRow {
    pub(super) fn of(credential: &CredentialState) -> Self {
        Self {
            reader: credential.reader.clone(),
            kind: credential.kind.label().to_owned(),
            key_id: credential.key_id.clone(),
            name: credential.name.clone(),
            thumbprint: credential.thumbprint.clone(),
            ends: credential.ends.map(|at| at.0),
            in_use: credential.in_use,
            standing: credential.standing.label().to_owned(),
        }
    }

    /// `None` for a kind or a standing that a newer version wrote.
    pub(super) fn state(self) -> Option<CredentialState> {
        Some(CredentialState {
            kind: CredentialKind::from_label(&self.kind)?,
            standing: Standing::from_label(&self.standing)?,
            reader: self.reader,
            key_id: self.key_id,
            name: self.name,
            thumbprint: self.thumbprint,
            ends: self.ends.map(Timestamp),
            in_use: self.in_use,
        })
    }
}

//! Diagnoses one integration, and writes `/metrics` for up to ten thousand.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use consentry::domain::{
    Access, Check, Evidence, GroupPolicy, Groups, IntegrationRecord, IntegrationState, OwnToken, ProbeEnd,
    RequiredPermissions, Requirements, RoleEvidence, Thresholds, Timestamp, diagnose, fold,
};
use consentry::fleet::FleetEntry;
use consentry::metrics::{Families, Format, Published, write};
use criterion::{Criterion, criterion_group, criterion_main};

const GRAPH: &str = "microsoft_graph";

fn requirements() -> Requirements {
    let delegated = vec!["User.Read".to_owned(), "Group.Read.All".to_owned()];
    Requirements {
        access: Access::Delegated,
        checks: vec![Check::EnterpriseApp, Check::Consent, Check::GroupAccess],
        required: vec![RequiredPermissions {
            resource: GRAPH.to_owned(),
            delegated,
            application: Vec::new(),
        }]
        .into(),
        unexpected_fails: true,
        groups: GroupPolicy { minimum: 1, required: Vec::new() },
        credential_warning: Duration::ZERO,
    }
}

fn evidence() -> Evidence {
    let scopes = ["User.Read", "Group.Read.All", "openid", "profile"].map(str::to_owned).to_vec();
    Evidence {
        directory: None,
        app_only: Some(Ok(vec![RoleEvidence { resource: GRAPH.to_owned(), roles: Ok(Some(Vec::new())) }])),
        own_token: OwnToken::Granted {
            scopes: vec![(GRAPH.to_owned(), Ok(scopes))],
            principal: Some("ada".to_owned()),
        },
        groups: Some(Ok(Groups { visible: 3, required: Vec::new() })),
        jobs: None,
        credentials: None,
        at: Timestamp(0),
    }
}

fn fleet(size: usize) -> Published {
    let published = Published::default();
    let diagnosis = diagnose(&requirements(), &evidence());
    let now = Timestamp::from_seconds(1_790_000_000);
    let end =
        ProbeEnd { at: now, duration: Duration::from_millis(250), elapsed: Duration::ZERO, renewed: false };
    let state = fold(
        IntegrationState::default(),
        &diagnosis,
        &end,
        Thresholds { failure: 2, success: 1, lasting: Duration::from_secs(3600) },
    );
    for index in 0..size {
        let record = IntegrationRecord {
            name: format!("customer-{index:05}"),
            display_name: format!("Customer number {index}"),
            app: "sequr".into(),
            app_display_name: "Sequr".into(),
            client_id: "00000000-0000-0000-0000-0000000000aa".into(),
            tenant: "11111111-1111-1111-1111-111111111111".to_owned(),
            access: Access::Delegated,
            reader: None,
            labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
            checks: requirements().checks,
            admins: Vec::new(),
            notify: consentry::domain::Notify::Admins,
            permissions: Vec::new().into(),
            external_sign_in: None,
            admin_consent: None,
        };
        published.set(&FleetEntry { state: Arc::new(state.clone()), ..FleetEntry::new(Arc::new(record)) });
    }
    published
}

fn benches(criterion: &mut Criterion) {
    let (requirements, evidence) = (requirements(), evidence());
    criterion.bench_function("diagnose one integration", |b| {
        b.iter(|| diagnose(black_box(&requirements), black_box(&evidence)));
    });
    let families = Families::new().expect("families");
    for size in [1_000, 10_000] {
        let published = fleet(size);
        criterion.bench_function(&format!("write /metrics of {size} integrations"), |b| {
            b.iter(|| write(black_box(&families), black_box(&published), Format::Text));
        });
    }
}

criterion_group!(all, benches);
criterion_main!(all);

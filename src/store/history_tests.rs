//! Random histories: alerts, the brake and the outbox together, on a manual clock.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::{
    AlertEvent, AlertPolicy, Brake, BrakeAction, BrakePolicy, Judgement, Notify, change_alert,
};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const HOUR: Duration = Duration::from_secs(3600);
const WAIT: Duration = Duration::from_secs(30);
const BRAKE: BrakePolicy =
    BrakePolicy { share: 0.5, minimum: 3, hold: HOUR, interval: Duration::from_secs(300) };

/// What happens next: a pause in seconds, a probe of an integration with its result, whether the notifier runs, and what somebody does with held mails.
#[derive(Debug, Clone)]
struct Step {
    pause: u64,
    integration: usize,
    verdict: usize,
    drains: bool,
    action: Option<usize>,
}

fn step() -> impl Strategy<Value = Step> {
    let fields =
        (0_u64..900, 0..NAMES.len(), 0_usize..3, any::<bool>(), prop::option::weighted(0.05, 0_usize..3));
    fields.prop_map(|(pause, integration, verdict, drains, action)| Step {
        // Half of the time, much happens within an interval.
        pause: if pause < 450 { pause % 20 } else { pause * 4 },
        integration,
        verdict,
        drains,
        action,
    })
}

/// The parts of a daemon that decide about mails.
struct World {
    store: Store,
    now: Timestamp,
    alerts: [Option<OpenAlert>; NAMES.len()],
    brake: Brake,
    serial: u32,
    /// What each integration's administrator got, in order.
    delivered: [Vec<MailKind>; NAMES.len()],
}

impl World {
    async fn probe(&mut self, index: usize, verdict: Verdict) {
        let (admins, reminders) = (["ada".to_owned()], [HOUR, HOUR]);
        let policy = AlertPolicy {
            notify: Notify::Admins,
            admins: &admins,
            operators: &[],
            mail: true,
            send_resolved: true,
            reminders: &reminders,
            snoozed_until: None,
            held: self.brake.held_period(self.now),
        };
        self.serial += 1;
        let serial = self.serial;
        let judgement = Judgement { verdict, exact: false };
        let open = self.alerts[index].as_ref();
        let change = change_alert(open, judgement, policy, || format!("alert-{serial}"), self.now);
        let again = change_alert(change.alert.as_ref(), judgement, policy, || unreachable!(), self.now);
        assert_eq!(again.mails, [], "deciding twice changes nothing");
        let outdated = matches!(change.event, Some(AlertEvent::Changed(_) | AlertEvent::Recovered(_)))
            .then(|| open.map(|alert| alert.id.clone()))
            .flatten();
        let name = NAMES[index];
        if change.mails.iter().any(|mail| mail.kind == MailKind::Alert) {
            self.brake.broke(name, NAMES.len(), BRAKE, self.now, || format!("hold-{serial}"));
        }
        let incident = Incident { integration: name.to_owned(), ..incident() };
        let notifications = change.mails.iter().cloned().map(|mail| mail.about(&incident)).collect();
        let base = record(notifications, Vec::new());
        let integration = SavedIntegration {
            name: name.to_owned(),
            alert: change.alert.clone(),
            ..base.integration.clone()
        };
        let brake = self.brake.unsaved();
        let record = ProbeRecord {
            integration,
            outdated,
            brake: brake.clone(),
            group_wait: WAIT,
            at: self.now,
            ..base
        };
        self.store.save_probe(record).await.expect("saved");
        brake.iter().for_each(|change| self.brake.saved(change));
        self.alerts[index] = change.alert;
    }

    /// Sends what is due, as the notifier does.
    async fn drain(&mut self) {
        self.store.end_brake_by_time(self.now).await.expect("saved");
        let holds = self.store.brake().await.expect("read").is_some();
        loop {
            let due = self.store.due_notifications(self.now, 64).await.expect("due");
            let Some(leader) = due.first() else { break };
            let group = self.store.group(leader, self.now, WAIT, 20).await.expect("read").expect("a mail");
            for shown in &group.shown {
                let (kind, name) = (shown.notification.kind, &shown.notification.incident.integration);
                assert!(!holds || kind != MailKind::Alert || was_released(&self.store, &group.ids).await);
                let index = NAMES.iter().position(|known| known == name).expect("known");
                self.delivered[index].push(kind);
            }
            let id = format!("<{}@x>", group.ids[0]);
            assert!(self.store.mark_handed_over(&group.ids, &id, self.now, HOUR).await.expect("marked"));
            self.store.mark_sent(&group.ids, &id, self.now).await.expect("marked");
        }
    }

    async fn act(&mut self, action: BrakeAction) {
        let Some((hold, _)) = self.store.brake().await.expect("read") else { return };
        let who = "a test".to_owned();
        let acted = self.store.act_on_brake(&hold.id, action, HOUR, who, self.now).await.expect("saved");
        match action {
            BrakeAction::HoldLonger => self.brake.prolonged(&hold.id, acted.expect("it holds").1),
            BrakeAction::Release | BrakeAction::Discard => self.brake.ended(&hold.id, self.now),
        }
    }
}

/// Whether one of these notices was held and released before.
async fn was_released(store: &Store, ids: &[i64]) -> bool {
    let ids = serde_json::to_string(ids).expect("JSON");
    let sql = "SELECT EXISTS (SELECT 1 FROM notifications WHERE hold = 2 AND id IN (SELECT value FROM json_each(?1)))";
    let found = store.read(move |c| Ok(c.query_row(sql, [ids], |r| r.get::<_, bool>(0))?)).await;
    found.expect("read")
}

async fn run(steps: Vec<Step>) {
    let folder = folder();
    let store = open(&folder).expect("a database");
    let mut world = World {
        store,
        now: NOW,
        alerts: [const { None }; NAMES.len()],
        brake: Brake::default(),
        serial: 0,
        delivered: [const { Vec::new() }; NAMES.len()],
    };
    for step in steps {
        world.now = world.now.plus(Duration::from_secs(step.pause));
        let verdict = match step.verdict {
            0 => Verdict::Healthy,
            1 => Verdict::Broken { reason: Reason::TokenRevoked, since: world.now },
            _ => Verdict::Broken { reason: Reason::AppDeleted, since: world.now },
        };
        world.probe(step.integration, verdict).await;
        if let Some(action) = step.action {
            world.act(BrakeAction::ALL[action]).await;
        }
        if step.drains {
            world.drain().await;
        }
    }
    for _ in 0..100 {
        world.now = world.now.plus(HOUR);
        world.drain().await;
    }
    let state = world.store.outbox(world.now).await.expect("outbox");
    assert_eq!(state, OutboxState { next: None, waiting: 0, held: 0 }, "nothing is held for ever");
    for (name, kinds) in NAMES.iter().zip(&world.delivered) {
        let mut knows = false;
        for kind in kinds {
            match kind {
                MailKind::Alert => assert!(!std::mem::replace(&mut knows, true), "{name}: {kinds:?}"),
                MailKind::Resolved => assert!(std::mem::replace(&mut knows, false), "{name}: {kinds:?}"),
                _ => assert!(knows, "{name}: {kinds:?}"),
            }
        }
    }
}

/// An alert that is over when the brake begins to hold it, and its end: both are discarded, or neither.
#[tokio::test]
async fn the_end_of_a_discarded_alert_is_discarded() {
    let step =
        |pause, integration, verdict, drains, action| Step { pause, integration, verdict, drains, action };
    let begin = vec![
        step(0, 2, 1, false, None),
        step(15, 4, 2, false, None),
        step(15, 2, 0, false, None),
        step(14, 0, 1, false, None),
    ];
    let discard = BrakeAction::ALL.iter().position(|action| *action == BrakeAction::Discard);
    run([begin, vec![step(19, 4, 2, true, discard)]].concat()).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Never two alerts without a recovery between, no recovery without an alert, no alert while the brake holds, nothing held for ever.
    #[test]
    fn what_holds_in_every_history(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(steps));
    }
}

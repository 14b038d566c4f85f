//! The parts of a dashboard in Grafana's classic model (schema version 42, Grafana 12.2; versions from 10 on read it, too):
//! <https://grafana.com/docs/grafana/latest/visualizations/dashboards/build-dashboards/view-dashboard-json-model/>.

use serde_json::{Map, Value, json};

/// Width of a dashboard in grid units.
const WIDTH: u32 = 24;

/// The boards, by uid and title.
pub const BOARDS: [(&str, &str); 2] =
    [("consentry-fleet", "Consentry / Fleet"), ("consentry-integration", "Consentry / Integration")];

/// The variables that a link to another board passes on.
pub const CHOSEN: &str = "${datasource:queryparam}&${job:queryparam}&${instance:queryparam}";

/// The matchers that every selector starts with. `FLEET` in an expression stands for them.
const FLEET: &str = r#"job=~"$job", instance=~"$instance""#;

/// Colours of states, the same on every board.
pub const GOOD: &str = "green";
/// Something is broken.
pub const BAD: &str = "red";
/// Something should be looked at.
pub const CAUTION: &str = "orange";
/// Nothing is known.
pub const UNKNOWN: &str = "text";

/// A panel that is being built.
#[derive(Debug, Clone)]
pub struct Panel {
    kind: &'static str,
    title: &'static str,
    description: &'static str,
    size: (u32, u32),
    targets: Vec<Value>,
    defaults: Map<String, Value>,
    custom: Map<String, Value>,
    overrides: Vec<Value>,
    options: Value,
    transformations: Vec<Value>,
    interval: Option<&'static str>,
}

/// A part of a dashboard, from top to bottom.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // A board has a dozen of each.
pub enum Item {
    /// A heading over the panels that follow.
    Row(&'static str),
    /// A panel.
    Panel(Panel),
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { unreachable!("only objects are merged") };
    map
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// A list of thresholds: `base` is the colour below the first of them.
fn steps(base: &str, above: &[(f64, &str)]) -> Value {
    let mut steps = vec![json!({"color": base, "value": null})];
    steps.extend(above.iter().map(|(value, color)| json!({"color": color, "value": value})));
    json!({"mode": "absolute", "steps": steps})
}

impl Panel {
    fn new(
        kind: &'static str,
        title: &'static str,
        description: &'static str,
        size: (u32, u32),
        options: Value,
    ) -> Self {
        let mut defaults = Map::new();
        defaults.insert("unit".to_owned(), json!("short"));
        defaults.insert("thresholds".to_owned(), steps(UNKNOWN, &[]));
        Self {
            kind,
            title,
            description,
            size,
            targets: Vec::new(),
            defaults,
            custom: Map::new(),
            overrides: Vec::new(),
            options,
            transformations: Vec::new(),
            interval: None,
        }
    }

    /// One number.
    pub fn stat(title: &'static str, description: &'static str) -> Self {
        let reduce = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
        let options = json!({
            "reduceOptions": reduce, "colorMode": "value", "graphMode": "none", "textMode": "value", "justifyMode": "auto",
            "orientation": "auto", "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard"
        });
        Self::new("stat", title, description, (4, 4), options)
    }

    /// Lines over time.
    pub fn lines(title: &'static str, description: &'static str) -> Self {
        let legend = json!({"displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": []});
        let options = json!({"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}});
        let mut panel = Self::new("timeseries", title, description, (8, 8), options);
        panel.defaults.insert("min".to_owned(), json!(0));
        panel.defaults.insert("color".to_owned(), json!({"mode": "palette-classic"}));
        panel.custom = object(
            json!({"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "showPoints": "auto", "spanNulls": false}),
        );
        panel
    }

    /// A bar for each value of a label, longest first.
    pub fn bars(title: &'static str, description: &'static str, label: &str) -> Self {
        let reduce = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
        let options = json!({
            "reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic", "valueMode": "color",
            "showUnfilled": true, "namePlacement": "top", "sizing": "manual", "minVizWidth": 8, "minVizHeight": 16, "maxVizHeight": 28,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": []}
        });
        let mut panel = Self::new("bargauge", title, description, (6, 9), options);
        panel.defaults.insert("min".to_owned(), json!(0));
        // Grafana omits the name of a single bar unless `displayName` is set.
        panel.defaults.insert("displayName".to_owned(), json!(format!("${{__field.labels.{label}}}")));
        panel.thresholds(BAD, &[])
    }

    /// States over time, a line for each series.
    pub fn timeline(title: &'static str, description: &'static str) -> Self {
        let legend = json!({"displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": []});
        let options = json!({
            "mergeValues": true, "showValue": "auto", "rowHeight": 0.8, "alignValue": "left", "legend": legend,
            "tooltip": {"mode": "single", "sort": "none"}
        });
        let mut panel = Self::new("state-timeline", title, description, (24, 7), options);
        panel.custom = object(json!({"fillOpacity": 80, "lineWidth": 0, "spanNulls": false}));
        // Thresholds would take precedence over the texts and colours of the mappings.
        panel.defaults.insert("color".to_owned(), json!({"mode": "fixed", "fixedColor": UNKNOWN}));
        panel
    }

    /// A table of the present values.
    pub fn table(title: &'static str, description: &'static str) -> Self {
        let options = json!({"showHeader": true, "frameIndex": 0, "cellHeight": "sm", "footer": {"show": false, "reducer": ["sum"], "fields": ""}});
        let mut panel = Self::new("table", title, description, (24, 10), options);
        panel.custom = object(json!({"align": "auto", "filterable": true, "inspect": false}));
        panel
    }

    /// Width and height in grid units.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = (width, height);
        self
    }

    /// Unit of the values, as Grafana names it.
    pub fn unit(mut self, unit: &str) -> Self {
        self.defaults.insert("unit".to_owned(), json!(unit));
        self
    }

    /// Colours by value.
    pub fn thresholds(mut self, base: &str, above: &[(f64, &str)]) -> Self {
        self.defaults.insert("thresholds".to_owned(), steps(base, above));
        self.defaults.insert("color".to_owned(), json!({"mode": "thresholds"}));
        self
    }

    /// Texts and colours for values: `(value, text, colour)`.
    pub fn mappings(mut self, words: &[(&str, &str, &str)]) -> Self {
        let options: Map<String, Value> = words
            .iter()
            .enumerate()
            .map(|(index, (value, text, color))| {
                ((*value).to_owned(), json!({"text": text, "color": color, "index": index}))
            })
            .collect();
        self.defaults.insert("mappings".to_owned(), json!([{"type": "value", "options": options}]));
        self
    }

    /// The text that is shown without data.
    pub fn nothing(mut self, text: &str) -> Self {
        self.defaults.insert("noValue".to_owned(), json!(text));
        self
    }

    /// Digits after the decimal point.
    pub fn decimals(mut self, count: u32) -> Self {
        self.defaults.insert("decimals".to_owned(), json!(count));
        self
    }

    /// No texts inside the bars of a timeline.
    pub fn without_words(mut self) -> Self {
        self.options["showValue"] = json!("never");
        self
    }

    /// Size of the numbers, so that they are not larger than those of lower panels beside it.
    pub fn text_size(mut self, pixels: u32) -> Self {
        self.options["text"] = json!({"valueSize": pixels});
        self
    }

    /// Grafana's text mode: shows the name of a series besides its value, or instead of it.
    pub fn text_mode(mut self, mode: &str) -> Self {
        self.options["textMode"] = json!(mode);
        self
    }

    /// The axis ends here, or higher if there are higher values.
    pub fn up_to(mut self, value: f64) -> Self {
        self.custom.insert("axisSoftMax".to_owned(), json!(value));
        self
    }

    /// Stacked lines.
    pub fn stacked(mut self) -> Self {
        self.custom.insert("stacking".to_owned(), json!({"mode": "normal", "group": "A"}));
        self.custom.insert("fillOpacity".to_owned(), json!(70));
        // The line of an empty layer would look like a layer.
        self.custom.insert("lineWidth".to_owned(), json!(0));
        self
    }

    /// Bars over time, for rare events. No bar is narrower than five minutes: `$__rate_interval` is several steps long,
    /// so one event would appear as several bars.
    pub fn over_time_bars(mut self) -> Self {
        self.custom.insert("drawStyle".to_owned(), json!("bars"));
        self.interval = Some("5m");
        self.decimals(0).nothing("none").stacked()
    }

    /// A colour for the series of this name.
    pub fn color(mut self, series: &str, color: &str) -> Self {
        self.overrides.push(json!({
            "matcher": {"id": "byName", "options": series},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}]
        }));
        self
    }

    /// Properties of one column of a table.
    pub fn column(mut self, name: &str, properties: &[(&str, Value)]) -> Self {
        let properties: Vec<Value> =
            properties.iter().map(|(id, value)| json!({"id": id, "value": value})).collect();
        self.overrides.push(json!({"matcher": {"id": "byName", "options": name}, "properties": properties}));
        self
    }

    /// Columns of a table in their order, with their headings; all others are hidden.
    pub fn columns(mut self, columns: &[(&str, &str)]) -> Self {
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let order: Map<String, Value> =
            names.iter().enumerate().map(|(index, name)| ((*name).to_owned(), json!(index))).collect();
        let headings: Map<String, Value> =
            columns.iter().map(|(name, heading)| ((*name).to_owned(), json!(heading))).collect();
        self.transformations
            .push(json!({"id": "filterFieldsByName", "options": {"include": {"names": names}}}));
        self.transformations
            .push(json!({"id": "organize", "options": {"indexByName": order, "renameByName": headings, "excludeByName": {}}}));
        self
    }

    /// Sorts the rows of a table by a column.
    pub fn sorted(mut self, heading: &str, descending: bool) -> Self {
        self.options["sortBy"] = json!([{"displayName": heading, "desc": descending}]);
        self
    }

    fn target(mut self, expression: &str, legend: &str, instant: bool) -> Self {
        let reference = char::from(b'A' + u8::try_from(self.targets.len()).unwrap_or_default());
        let format = if self.kind == "table" { "table" } else { "time_series" };
        let expression = expression.split_whitespace().collect::<Vec<_>>().join(" ").replace("FLEET", FLEET);
        self.targets.push(json!({
            "refId": reference.to_string(), "datasource": datasource(), "editorMode": "code", "expr": expression,
            "legendFormat": legend, "range": !instant, "instant": instant, "format": format
        }));
        self
    }

    /// A range query. `FLEET` stands for the matchers of job and instance.
    pub fn over_time(self, expression: &str, legend: &str) -> Self {
        self.target(expression, legend, false)
    }

    /// An instant query. `FLEET` stands for the matchers of job and instance.
    pub fn now(self, expression: &str, legend: &str) -> Self {
        self.target(expression, legend, true)
    }

    /// Median, 90th and 99th percentile of a histogram.
    pub fn percentiles(self, histogram: &str) -> Self {
        [("0.5", "median"), ("0.9", "90 %"), ("0.99", "99 %")].iter().fold(self, |panel, (quantile, legend)| {
            let expression = format!("histogram_quantile({quantile}, sum by (le) (rate({histogram}_bucket{{FLEET}}[$__rate_interval])))");
            panel.over_time(&expression, legend)
        })
    }

    fn json(mut self, id: u32, (x, y): (u32, u32)) -> Value {
        if !self.custom.is_empty() {
            self.defaults.insert("custom".to_owned(), Value::Object(self.custom));
        }
        let (w, h) = self.size;
        let mut panel = json!({
            "id": id, "type": self.kind, "title": self.title, "description": self.description, "datasource": datasource(),
            "gridPos": {"x": x, "y": y, "w": w, "h": h},
            "fieldConfig": {"defaults": self.defaults, "overrides": self.overrides},
            "options": self.options, "targets": self.targets, "transformations": self.transformations
        });
        if let Some(interval) = self.interval {
            panel["interval"] = json!(interval);
        }
        panel
    }
}

/// Places panels from left to right, in lines; a heading starts a new line.
fn lay_out(items: Vec<Item>) -> Vec<Value> {
    let (mut x, mut y, mut line) = (0, 0, 0);
    let mut panels = Vec::new();
    for (item, id) in items.into_iter().zip(1..) {
        match item {
            Item::Row(title) => {
                (x, y, line) = (0, y + line, 0);
                panels.push(json!({
                    "id": id, "type": "row", "title": title, "collapsed": false, "panels": [], "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}
                }));
                y += 1;
            }
            Item::Panel(panel) => {
                let (w, h) = panel.size;
                if x + w > WIDTH {
                    (x, y, line) = (0, y + line, 0);
                }
                panels.push(panel.json(id, (x, y)));
                (x, line) = (x + w, line.max(h));
            }
        }
    }
    panels
}

/// The variables of every board, then its own.
fn variables(own: Vec<Value>) -> Vec<Value> {
    let source = json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1, "hide": 0, "regex": "",
        "multi": false, "includeAll": false, "options": [], "current": {"selected": false, "text": "default", "value": "default"}
    });
    let job = values("job", "Job", "label_values(consentry_build_info, job)", true);
    let instance =
        values("instance", "Instance", r#"label_values(consentry_build_info{job=~"$job"}, instance)"#, true);
    let app = values("app", "Application", "label_values(consentry_integration_info{FLEET}, app)", true);
    [source, job, instance, app].into_iter().chain(own).collect()
}

/// A variable with the values of a label.
pub fn values(name: &str, label: &str, query: &str, several: bool) -> Value {
    let mut variable = json!({
        "name": name, "label": label, "type": "query", "datasource": datasource(), "query": query.replace("FLEET", FLEET), "refresh": 2,
        "sort": 1, "hide": 0, "regex": "", "multi": several, "includeAll": several, "options": [],
        "current": {"selected": false, "text": "", "value": ""}
    });
    if several {
        variable["allValue"] = json!(".+");
        variable["current"] = json!({"selected": true, "text": ["All"], "value": ["$__all"]});
    }
    variable
}

/// A variable with free text.
pub fn written(name: &str, label: &str, default: &str) -> Value {
    let current = json!({"selected": true, "text": default, "value": default});
    json!({"name": name, "label": label, "type": "textbox", "query": default, "hide": 0, "options": [current.clone()], "current": current})
}

/// A whole dashboard.
pub fn dashboard(
    (uid, title): (&str, &str),
    description: &str,
    range: &str,
    own: Vec<Value>,
    items: Vec<Item>,
) -> Value {
    let annotation = json!({
        "builtIn": 1, "datasource": {"type": "grafana", "uid": "-- Grafana --"}, "enable": true, "hide": true,
        "iconColor": "rgba(0, 211, 255, 1)", "name": "Annotations & Alerts", "type": "dashboard"
    });
    // Not all variables: `integration` is a pattern on one board and a name on the other.
    let link = |(uid, title): &(&str, &str)| {
        json!({
            "type": "link", "title": title, "tags": [], "asDropdown": false, "includeVars": false, "keepTime": true, "targetBlank": false,
            "icon": "dashboard", "tooltip": "", "url": format!("/d/{uid}?{CHOSEN}&${{app:queryparam}}")
        })
    };
    let links: Vec<Value> = BOARDS.iter().filter(|(other, _)| *other != uid).map(link).collect();
    json!({
        "uid": uid, "title": title, "description": description, "tags": ["consentry"], "schemaVersion": 42, "version": 1, "editable": false,
        "graphTooltip": 1, "refresh": "1m", "time": {"from": range, "to": "now"}, "timezone": "browser", "fiscalYearStartMonth": 0,
        "liveNow": false, "weekStart": "", "preload": false, "annotations": {"list": [annotation]}, "links": links,
        "timepicker": {}, "templating": {"list": variables(own)}, "panels": lay_out(items)
    })
}

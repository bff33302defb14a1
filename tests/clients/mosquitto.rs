//! `mosquitto_pub`, `mosquitto_sub` and `mosquitto_rr`.

use serde_json::{Value, json};

use crate::{harness::server::Server, tool::Tool};

/// As `-V` takes them.
const VERSIONS: [&str; 2] = ["311", "5"];

/// The tools against one server in one version.
struct Tools {
    port: String,
    version: &'static str,
}

impl Tools {
    fn new(server: &Server, version: &'static str) -> Self {
        Self { port: server.address.port().to_string(), version }
    }

    fn start(&self, program: &str, arguments: &[&str]) -> Tool {
        let fixed = ["-h", "127.0.0.1", "-p", &self.port, "-V", self.version];
        Tool::start(program, &[&fixed, arguments].concat())
    }

    fn publish(&self, arguments: &[&str]) -> Vec<String> {
        self.start("mosquitto_pub", arguments).succeed()
    }

    /// Starts a subscriber and waits until it is one.
    fn subscribe(&self, arguments: &[&str]) -> Tool {
        let mut tool = self.start("mosquitto_sub", &[&["-d"], arguments].concat());
        tool.line("Subscribed (mid");
        tool
    }
}

#[test]
fn messages_of_every_qos() {
    let server = Server::start();
    for (sender, receiver) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (sender, receiver) = (Tools::new(&server, VERSIONS[sender]), Tools::new(&server, VERSIONS[receiver]));
        for granted in ["0", "1", "2"] {
            let mut tool = receiver.subscribe(&["-t", "m/+", "-q", granted, "-C", "3", "-F", "= %t %q %r %p"]);
            for qos in ["0", "1", "2"] {
                sender.publish(&["-t", "m/t", "-q", qos, "-m", "hällo"]);
                assert_eq!(tool.line("= "), format!("= m/t {} 0 hällo", qos.min(granted)));
            }
            tool.succeed();
        }
    }
}

#[test]
fn retained_messages() {
    let server = Server::start();
    for version in VERSIONS {
        let tools = Tools::new(&server, version);
        tools.publish(&["-t", "kept/t", "-r", "-q", "1", "-m", "kept"]);
        let mut tool = tools.subscribe(&["-t", "kept/#", "-q", "1", "-F", "= %r %p"]);
        assert_eq!(tool.line("= "), "= 1 kept");
        tools.publish(&["-t", "kept/t", "-r", "-q", "1", "-n"]);
        assert_eq!(tool.line("= "), "= 0 ");
        let mut late = tools.subscribe(&["-t", "kept/#", "-q", "1", "-F", "= %r %p"]);
        tools.publish(&["-t", "kept/t", "-q", "1", "-m", "live"]);
        assert_eq!(late.line("= "), "= 0 live", "what was cleared does not come");
    }
}

#[test]
fn wills() {
    let server = Server::start();
    for version in VERSIONS {
        let tools = Tools::new(&server, version);
        let mut watcher = tools.subscribe(&["-t", "will/t", "-q", "2", "-F", "= %q %p"]);
        let will = ["--will-topic", "will/t", "--will-payload", "died", "--will-qos", "2"];
        tools.subscribe(&[&["-t", "other"], &will[..]].concat()).kill();
        assert_eq!(watcher.line("= "), "= 2 died");
    }
}

#[test]
fn persistent_sessions() {
    let server = Server::start();
    for version in VERSIONS {
        let tools = Tools::new(&server, version);
        let id = format!("keeper-{version}");
        let session = ["-c", "-i", &id, "-t", "keep/#", "-q", "2", "-F", "= %q %p"];
        tools.start("mosquitto_sub", &[&session[..], &["-E"]].concat()).succeed();
        for (qos, payload) in [("1", "one"), ("2", "two"), ("1", "three")] {
            tools.publish(&["-t", "keep/t", "-q", qos, "-m", payload]);
        }
        let mut lines = tools.start("mosquitto_sub", &[&session[..], &["-C", "3"]].concat()).succeed();
        // It hands a QoS 2 message on when it is released, so after what came behind it.
        lines.sort();
        assert_eq!(lines, ["= 1 one", "= 1 three", "= 2 two"], "version {version}");
    }
}

#[test]
fn shared_subscriptions() {
    let server = Server::start();
    let mut members = VERSIONS.map(|version| {
        Tools::new(&server, version).subscribe(&["-t", "$share/group/work", "-t", "end", "-q", "1", "-F", "= %p"])
    });
    let tools = Tools::new(&server, "5");
    for number in 0..20 {
        tools.publish(&["-t", "work", "-q", "1", "-m", &number.to_string()]);
    }
    tools.publish(&["-t", "end", "-q", "1", "-m", "end"]);
    let mut shares = members.each_mut().map(|member| {
        let mut share: Vec<u32> = Vec::new();
        loop {
            match member.line("= ").trim_start_matches("= ").parse() {
                Ok(number) => share.push(number),
                Err(_) => return share,
            }
        }
    });
    println!("20 messages as {shares:?}");
    assert!(shares.iter().all(|share| !share.is_empty()));
    let mut all: Vec<u32> = shares.each_mut().iter().flat_map(|share| share.iter().copied()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}

fn body(line: &str) -> (String, Value) {
    let (topic, body) = line.trim_start_matches("= ").split_once(' ').unwrap();
    (topic.to_owned(), serde_json::from_str(body).unwrap())
}

#[test]
fn a_shadow_accepts_and_rejects() {
    let server = Server::start();
    for version in VERSIONS {
        let tools = Tools::new(&server, version);
        let prefix = format!("shadow/mosquitto-{version}");
        let mut watcher = tools.subscribe(&["-t", &format!("{prefix}/update/+"), "-q", "1", "-F", "= %t %p"]);
        let update = |body: &Value| {
            let topic = format!("{prefix}/update");
            tools.start("mosquitto_pub", &["-d", "-t", &topic, "-q", "1", "-m", &body.to_string()]).end().1.join("\n")
        };
        let said = update(&json!({"state": {"desired": {"mode": "heat"}}, "version": 0}));
        assert!(said.contains("received PUBACK (Mid: 1, RC:0)"), "{said}");
        for event in ["delta", "documents", "accepted"] {
            let (topic, body) = body(&watcher.line("= "));
            assert_eq!(topic, format!("{prefix}/update/{event}"));
            assert!(event == "documents" || body["version"] == json!(1), "{body}");
        }
        let said = update(&json!({"state": {"desired": {"mode": "cool"}}, "version": 0}));
        let code = if version == "5" { 131 } else { 0 };
        assert!(said.contains(&format!("received PUBACK (Mid: 1, RC:{code})")), "{said}");
        let (topic, body) = body(&watcher.line("= "));
        assert_eq!(topic, format!("{prefix}/update/rejected"));
        assert_eq!((&body["code"], &body["expected"], &body["version"]), (&json!(409), &json!(0), &json!(1)));
    }
}

/// `mosquitto_rr` sends a request with a response topic and correlation data and prints the reply.
#[test]
fn a_request_with_a_response_topic() {
    let server = Server::start();
    let tools = Tools::new(&server, "5");
    tools.publish(&["-t", "shadow/rr/update", "-q", "1", "-m", r#"{"state":{"reported":{"a":1}}}"#]);
    let ask = |topic: &str| {
        let arguments =
            ["-t", topic, "-e", "answers/rr", "-n", "-F", "%t %p", "-D", "publish", "correlation-data", "7"];
        let lines = tools.start("mosquitto_rr", &arguments).succeed();
        body(lines.last().unwrap())
    };
    let (topic, document) = ask("shadow/rr/get");
    assert_eq!((&*topic, &document["state"]["reported"]["a"]), ("answers/rr", &json!(1)));
    assert_eq!(ask("shadow/nobody/get").1["error"], json!("not-found"));
}

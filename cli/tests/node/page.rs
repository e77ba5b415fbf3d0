//! The web page, in a browser: Chromium, driven by its DevTools protocol.

use std::{fs, net::Ipv4Addr, path::Path};

use carrick_attest::Blob;
use carrick_lab::{Process, in_lab, mesh::Mesh};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{
    bundle::write_draft,
    operator::succeeded,
    support::{PATIENCE, carrick, guest, wait_for},
};

#[test]
fn the_page_shows_the_evidence_of_each_node_every_claim_and_who_was_refused() {
    in_lab(|lab| {
        let mut mesh = Mesh::build(lab, carrick(), &[("east", 2), ("west", 1)]).unwrap();
        mesh.start_coordinator(&[]).unwrap();
        let (east, west) = (mesh.token("east", 1).unwrap(), mesh.token("west", 1).unwrap());
        mesh.start_node(0, Some(&east)).unwrap();
        let mut blind = mesh.node_command(2, Some(&west)).unwrap();
        blind.args(["--trust", "coordinator"]);
        mesh.nodes[2].process = Some(mesh.nodes[2].host.spawn("west-1", blind).unwrap());
        mesh.settle().unwrap();
        let text = succeeded(mesh.operate(&["topology"]).unwrap());
        assert!(text.contains("do not check the evidence of their peers: west-1\n"), "{text}");
        let nodes = mesh.json(&["topology"]).unwrap()["nodes"].clone();
        assert_eq!((&nodes[0]["trust"], &nodes[1]["trust"]), (&"evidence".into(), &"coordinator".into()));

        // One that was cut off, and one that never got in.
        let draft = mesh.directory().join("draft.json").to_str().unwrap().to_owned();
        write_draft(&mesh, &draft, |draft| {
            let mut policy = draft["default"].clone();
            policy["runtime_digests"] = json!(["00".repeat(32)]);
            draft["clusters"] = json!({ "west": policy });
        });
        succeeded(mesh.operate(&["bundle", "push", "-f", &draft, "--yes"]).unwrap());
        mesh.start_node(1, Some(&east)).unwrap();
        wait_for("the refusal", || mesh.json(&["nodes", "east-2"]).ok());

        let (_browser, port) = open(&mesh);
        guest::on(&mesh.coordinator_host, async || {
            let mut page = Page::at(port).await;
            let row = |n: u8| {
                format!(
                    "document.querySelectorAll('#nodes tr')[{n}]?.cells[1]?.innerText && document.querySelectorAll('#nodes tr')[{n}].innerText"
                )
            };
            let east = page.until(&row(0)).await;
            for shown in ["east-1", "active", "join-token", "accepted", "available", "s left"] {
                assert!(east.contains(shown), "{shown} is not in {east}");
            }
            let west = page.until(&row(1)).await;
            for shown in [
                "west-1",
                "suspended: evidence identity: runtime digest",
                "refused",
                "trusts the coordinator",
            ] {
                assert!(west.contains(shown), "{shown} is not in {west}");
            }
            let drawn = "document.querySelector('#picture .node.suspended')?.getAttribute('class')";
            assert_eq!(page.until(drawn).await, "node suspended", "who is suspended is in the picture");
            let refused = "[...document.querySelectorAll('#refusals tr')].map(row => row.innerText).find(text => text.includes('east-2'))";
            let refused = page.until(refused).await;
            assert!(refused.contains("the join token is used up"), "{refused}");
            page.screenshot("page").await;

            // As with a keyboard: a button that is focused and pressed.
            page.evaluate("document.querySelectorAll('#nodes button')[1].focus()").await;
            page.press_enter().await;
            let claims =
                page.until("document.querySelector('dialog[open] table')?.closest('dialog').innerText").await;
            for shown in ["west/west-1", "signed the token", "runtime digest", "refused", "unchecked"] {
                assert!(claims.contains(shown), "{shown} is not in {claims}");
            }
            page.screenshot("claims").await;
            page.evaluate("document.getElementById('node-close').click()").await;
            let closed = page.until("String(document.getElementById('node').open)").await;
            assert_eq!(closed, "false");
        });
    });
}

/// A browser that shows the page, and the port of its DevTools.
fn open(mesh: &Mesh) -> (Process, u16) {
    let viewer = fs::read_to_string(mesh.data_dir().join("viewer.credential")).unwrap();
    let mut command = mesh.coordinator_host.command("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--ignore-certificate-errors", "--remote-debugging-port=0", "--window-size=1400,1000"]);
    command.arg(format!("--user-data-dir={}", mesh.directory().join("browser").display()));
    command.arg(format!("https://me:{}@{}/", viewer.trim(), mesh.coordinator_address()));
    command.env("HOME", mesh.directory());
    let browser = mesh.coordinator_host.spawn("chromium", command);
    let browser = browser.expect("install chromium: the page is tested in it");
    let line = browser.wait_for_line("DevTools listening on ws://127.0.0.1:", PATIENCE).unwrap();
    let port = line.rsplit_once("127.0.0.1:").and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
    (browser, port.unwrap_or_else(|| panic!("{line}")))
}

/// The page in the browser.
struct Page {
    socket: WebSocketStream<TcpStream>,
    calls: u64,
}

impl Page {
    async fn at(port: u16) -> Self {
        let target = loop {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            let request = "GET /json/list HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = vec![0; 64 * 1024];
            let mut length = 0;
            // The browser keeps the connection open whatever it is asked.
            let targets: Value = loop {
                let read = stream.read(&mut answer[length..]).await.unwrap();
                assert!(read > 0, "{}", String::from_utf8_lossy(&answer[..length]));
                length += read;
                let text = String::from_utf8_lossy(&answer[..length]);
                let body = text.find("\r\n\r\n").map(|at| text[at + 4..].to_owned());
                if let Some(Ok(targets)) = body.map(|body| serde_json::from_str(&body)) {
                    break targets;
                }
            };
            let page = targets.as_array().unwrap().iter().find(|target| target["type"] == "page");
            if let Some(url) = page.and_then(|page| page["webSocketDebuggerUrl"].as_str()) {
                break url.to_owned();
            }
        };
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (socket, _) = client_async(target, stream).await.unwrap();
        Self { socket, calls: 0 }
    }

    /// The value of an expression.
    async fn evaluate(&mut self, expression: &str) -> Value {
        let answer =
            self.call("Runtime.evaluate", &json!({"expression": expression, "returnByValue": true})).await;
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is a text.
    async fn until(&mut self, expression: &str) -> String {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Value::String(text) = self.evaluate(expression).await {
                return text;
            }
            assert!(std::time::Instant::now() < deadline, "{expression} is never a text");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn press_enter(&mut self) {
        for kind in ["keyDown", "keyUp"] {
            let key = json!({"type": kind, "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13});
            self.call("Input.dispatchKeyEvent", &key).await;
        }
    }

    /// For people: a picture in the directory that `CARRICK_SCREENSHOTS` names.
    async fn screenshot(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("CARRICK_SCREENSHOTS") else { return };
        let whole = json!({"captureBeyondViewport": true});
        let answer = self.call("Page.captureScreenshot", &whole).await;
        let picture: Blob<{ 16 << 20 }> = serde_json::from_value(answer["data"].clone()).unwrap();
        fs::write(Path::new(&directory).join(format!("{name}.png")), picture.as_bytes()).unwrap();
    }

    async fn call(&mut self, method: &str, parameters: &Value) -> Value {
        let answered = timeout(PATIENCE, self.answer(method, parameters)).await;
        answered.unwrap_or_else(|_| panic!("no answer to {method} {parameters}"))
    }

    async fn answer(&mut self, method: &str, parameters: &Value) -> Value {
        self.calls += 1;
        let call = json!({"id": self.calls, "method": method, "params": parameters});
        self.socket.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let Message::Text(text) = self.socket.next().await.unwrap().unwrap() else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == self.calls {
                return answer["result"].clone();
            }
        }
    }
}

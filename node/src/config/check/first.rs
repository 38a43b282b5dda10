//! Who speaks first: an inspector that waits for the client, and a client that waits for a greeting, wait for ever.

use super::super::diagnostic::Report;
use super::super::model::{Handover, Mode};
use super::super::parse::ServiceDraft;

/// A protocol in which the server speaks first, by its registered port.
struct ServerFirst {
    port: u16,
    name: &'static str,
    /// What in its greeting is different each time, so that no configuration can give it.
    unpredictable: Option<&'static str>,
}

const fn greets(port: u16, name: &'static str) -> ServerFirst {
    ServerFirst {
        port,
        name,
        unpredictable: None,
    }
}

/// The well-known ones (IANA's Service Name and Transport Protocol Port Number Registry).
const SERVER_FIRST: [ServerFirst; 13] = [
    ServerFirst {
        unpredictable: Some("the time"),
        ..greets(13, "daytime")
    },
    greets(21, "FTP"),
    greets(22, "SSH"),
    greets(24, "LMTP"),
    greets(25, "SMTP"),
    greets(110, "POP3"),
    greets(119, "NNTP"),
    greets(143, "IMAP"),
    greets(587, "mail submission (SMTP)"),
    greets(873, "rsync"),
    ServerFirst {
        unpredictable: Some("a random number"),
        ..greets(3306, "MySQL")
    },
    greets(4190, "ManageSieve"),
    greets(5900, "VNC"),
];

/// Refuses inspected services that could never work, by what their port is known for.
pub(super) fn somebody_speaks_first(draft: &ServiceDraft, report: &mut Report<'_>) {
    let service = &draft.service;
    if service.mode == Mode::L4 {
        return;
    }
    if let Some(span) = &draft.greeting
        && service.handover == Handover::Adopt
    {
        report.warning(
            span,
            format!(
                "connections to {:?} are spliced: somebody has to repeat a greeting that is lost, and that takes a socket",
                service.name
            ),
            "leave out `handover`, or write handover = \"splice\"",
        );
    }
    let known = SERVER_FIRST.iter().find(|known| known.port == service.port);
    let Some(known) = known.filter(|_| !draft.client_first) else {
        return;
    };
    let (port, name) = (known.port, known.name);
    let otherwise = "or, if clients speak first at this port, client_first = true";
    match (known.unpredictable, &draft.greeting) {
        (Some(what), span) => {
            report.error(
                span.as_ref().unwrap_or(&draft.port),
                format!(
                    "port {port} is that of {name}: the server speaks first and says {what}, which no inspector can say in its stead"
                ),
                format!("write mode = \"l4\", {otherwise}"),
            );
        }
        (None, None) => {
            report.error(
                &draft.port,
                format!(
                    "port {port} is that of {name}: the server speaks first, so the client would wait for the inspector and the inspector for the client"
                ),
                format!("write the servers' `greeting`, or mode = \"l4\", {otherwise}"),
            );
        }
        (None, Some(_)) => {}
    }
}

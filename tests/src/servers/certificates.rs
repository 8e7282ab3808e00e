//! Certificates for servers that listen by TLS.

use std::fs;

use super::{Folder, run};

/// An authority, and a certificate of it for `localhost`, thrown away with the folder: `ca.pem`, `server.pem` and
/// `server.key`.
///
/// # Panics
///
/// If they cannot be made.
pub fn make_certificates(folder: &Folder) {
    let openssl = |arguments: &str| {
        run("openssl", "openssl", |command| {
            command.current_dir(folder.path()).args(arguments.split(' '));
        });
    };
    fs::write(folder.file("names"), "subjectAltName=DNS:localhost\n").expect("a file");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=tasklock-tests"));
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
    openssl("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names");
}

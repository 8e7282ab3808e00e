use tasklock::{LockError, synchronized};

#[synchronized("id")]
fn needs_blocking(id: u8) {}

#[synchronized("id", blocking)]
async fn needs_no_blocking(id: u8) {}

#[synchronized("id", blocking)]
const fn constant(id: u8) -> Result<u8, LockError> {
    Ok(id)
}

#[synchronized("id")]
struct NoFunction {
    id: u8,
}

struct Service;

#[synchronized("self.id")]
impl Service {
    async fn method(&self) {}
}

trait Contract {
    #[synchronized("id")]
    async fn no_body(&self, id: u8) -> Result<(), LockError>;
}

#[synchronized("id")]
async fn unit(id: u8) -> () {}

#[synchronized("id")]
async fn never(id: u8) -> ! {
    loop {}
}

fn main() {}

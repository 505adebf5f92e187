//! A new migration is a new file: without this line cargo would not see that it has to be embedded.

fn main() {
    println!("cargo:rerun-if-changed=sql/migrations");
}

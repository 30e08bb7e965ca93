// A driver without the core library, which stable compilers bring for their own machine only.
#![feature(no_core, lang_items, auto_traits)]
#![no_core]
#![no_std]
#![crate_type = "lib"]
#![allow(internal_features)]

#[lang = "pointee_sized"]
pub trait PointeeSized {}
#[lang = "meta_sized"]
pub trait MetaSized: PointeeSized {}
#[lang = "sized"]
pub trait Sized: MetaSized {}
#[lang = "copy"]
pub trait Copy {}
#[lang = "freeze"]
unsafe auto trait Freeze {}
#[lang = "legacy_receiver"]
pub trait LegacyReceiver {}
impl<T: PointeeSized> LegacyReceiver for &T {}
impl Copy for usize {}

pub mod queue {
    use super::Copy;
    use super::Sized;

    #[inline(never)]
    pub fn larger<T: Copy + Sized>(left: T, _right: T) -> T {
        left
    }

    pub struct Ring {
        pub head: usize,
    }

    impl Ring {
        #[inline(never)]
        pub fn push(&self, value: usize) -> usize {
            larger(self.head, value)
        }
    }
}

#[no_mangle]
pub extern "system" fn DriverEntry(object: usize, path: usize) -> usize {
    let ring = queue::Ring { head: object };
    ring.push(path)
}

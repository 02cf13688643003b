//! PCI addresses, which NVML and Vulkan write in different ways.

use std::fmt;
use std::str::FromStr;

/// Where a GPU is on the bus. NVML writes `00000000:01:00.0`, Vulkan `0000:01:00.0`; the numbers are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    domain: u32,
    bus: u32,
    device: u32,
    function: u32,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// The text is no PCI address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no PCI address; allowed: domain:bus:device.function in hexadecimal, such as 0000:01:00.0")]
pub struct ParsePciAddressError;

impl FromStr for PciAddress {
    type Err = ParsePciAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| u32::from_str_radix(part, 16).map_err(|_| ParsePciAddressError);
        let mut parts = text.split([':', '.']);
        let mut next = || parts.next().ok_or(ParsePciAddressError).and_then(number);
        let address = Self { domain: next()?, bus: next()?, device: next()?, function: next()? };
        if parts.next().is_some() { Err(ParsePciAddressError) } else { Ok(address) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_are_the_same_address() {
        let nvml: PciAddress = "00000000:C1:00.0".parse().unwrap();
        assert_eq!(nvml, "0000:c1:00.0".parse().unwrap());
        assert_eq!(nvml.to_string(), "0000:c1:00.0");
        assert_ne!(nvml, "0001:c1:00.0".parse().unwrap());
        for wrong in ["", "0000:c1:00", "0000:c1:00.0.0", "x:1:2.3"] {
            assert!(wrong.parse::<PciAddress>().is_err(), "{wrong}");
        }
    }
}

"""HTTP under the transport: two engines that behave alike."""

"""What acutance asks of every measure."""

from acutance.testing import conformance

TestSamRise = conformance("acme-sam/sam_rise")

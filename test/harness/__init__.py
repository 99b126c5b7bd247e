# SPDX-License-Identifier: Apache-2.0
"""What the system tests stand on: real daemon, real registry, real CNI plugins, real images, a leak check."""

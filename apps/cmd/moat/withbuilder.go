//go:build !moat_without_builder

package main

// builder is empty: this program builds images itself.
const builder = ""

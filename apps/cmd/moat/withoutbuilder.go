//go:build moat_without_builder

package main

// builder is the program that builds images for this one, with all else that this one has.
const builder = "moat-build"

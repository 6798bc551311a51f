// Package driver has what adapters share: the parts of a runtime that are the same on
// every engine.
package driver

//go:build !unix

package measure

// CPUSeconds is 0: this system does not tell.
func CPUSeconds() float64 { return 0 }

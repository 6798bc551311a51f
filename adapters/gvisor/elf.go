package gvisor

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// The probe is a program of a few machine instructions: it asks the kernel it runs
// on for its name, uname(2), and its log, syslog(2), and writes both to stdout. It
// needs no library, no shell and no image from a registry, and the kernel answers
// it directly: nothing in the container could forge the answer.
//
// Its output is the utsname, six strings of utsField bytes, and what the kernel
// gave of its log: at most logSize bytes, nothing where it refused.
const (
	utsField = 65
	utsSize  = 6 * utsField // 390, 0x186
	logSize  = 512
)

// probeCode is the probe's machine code by the engine's name of the architecture.
var probeCode = map[string]struct {
	machine elf.Machine
	code    []byte
}{
	"amd64": {elf.EM_X86_64, []byte{
		0x48, 0x81, 0xec, 0x00, 0x04, 0x00, 0x00, // sub rsp, 1024      the buffer
		0xb8, 0x3f, 0x00, 0x00, 0x00, // mov eax, 63        uname(
		0x48, 0x89, 0xe7, // mov rdi, rsp         buffer)
		0x0f, 0x05, // syscall
		0xb8, 0x67, 0x00, 0x00, 0x00, // mov eax, 103       syslog(
		0xbf, 0x03, 0x00, 0x00, 0x00, // mov edi, 3           SYSLOG_ACTION_READ_ALL,
		0x48, 0x8d, 0xb4, 0x24, 0x86, 0x01, 0x00, 0x00, // lea rsi, [rsp+390]   buffer + utsSize,
		0xba, 0x00, 0x02, 0x00, 0x00, // mov edx, 512         logSize)
		0x0f, 0x05, // syscall
		0xba, 0x86, 0x01, 0x00, 0x00, // mov edx, 390       length = utsSize
		0x85, 0xc0, // test eax, eax      if the kernel gave its log
		0x78, 0x02, // js +2
		0x01, 0xc2, // add edx, eax         length += the log's
		0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, 1         write(
		0xbf, 0x01, 0x00, 0x00, 0x00, // mov edi, 1           stdout,
		0x48, 0x89, 0xe6, // mov rsi, rsp         buffer, length)
		0x0f, 0x05, // syscall
		0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, 60        exit(
		0x31, 0xff, // xor edi, edi         0)
		0x0f, 0x05, // syscall
	}},
	"arm64": {elf.EM_AARCH64, []byte{
		0xff, 0x03, 0x10, 0xd1, // sub sp, sp, #1024     the buffer
		0x08, 0x14, 0x80, 0xd2, // mov x8, #160          uname(
		0xe0, 0x03, 0x00, 0x91, // mov x0, sp              buffer)
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0x88, 0x0e, 0x80, 0xd2, // mov x8, #116          syslog(
		0x60, 0x00, 0x80, 0xd2, // mov x0, #3              SYSLOG_ACTION_READ_ALL,
		0xe1, 0x1b, 0x06, 0x91, // add x1, sp, #390        buffer + utsSize,
		0x02, 0x40, 0x80, 0xd2, // mov x2, #512            logSize)
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0xc2, 0x30, 0x80, 0xd2, // mov x2, #390          length = utsSize
		0x40, 0x00, 0xf8, 0xb7, // tbnz x0, #63, +8      if the kernel gave its log
		0x42, 0x00, 0x00, 0x8b, // add x2, x2, x0          length += the log's
		0x08, 0x08, 0x80, 0xd2, // mov x8, #64           write(
		0x20, 0x00, 0x80, 0xd2, // mov x0, #1              stdout,
		0xe1, 0x03, 0x00, 0x91, // mov x1, sp              buffer, length)
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0xa8, 0x0b, 0x80, 0xd2, // mov x8, #93           exit(
		0x00, 0x00, 0x80, 0xd2, // mov x0, #0              0)
		0x01, 0x00, 0x00, 0xd4, // svc #0
	}},
}

// executable wraps machine code into a static ELF file whose first instruction is
// the code's.
func executable(machine elf.Machine, code []byte) []byte {
	const (
		address    = 0x400000
		headerSize = 64
		segment    = 56
		entry      = headerSize + segment
	)
	size := uint64(entry + len(code))
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{
			0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT),
		},
		Type:      uint16(elf.ET_EXEC),
		Machine:   uint16(machine),
		Version:   uint32(elf.EV_CURRENT),
		Entry:     address + entry,
		Phoff:     headerSize,
		Ehsize:    headerSize,
		Phentsize: segment,
		Phnum:     1,
	}
	program := elf.Prog64{
		Type:   uint32(elf.PT_LOAD),
		Flags:  uint32(elf.PF_R | elf.PF_X),
		Vaddr:  address,
		Paddr:  address,
		Filesz: size,
		Memsz:  size,
		Align:  0x10000, // the largest page of either architecture
	}
	var file bytes.Buffer
	for _, part := range []any{header, program, code} {
		_ = binary.Write(&file, binary.LittleEndian, part) // fixed sizes into memory: cannot fail
	}
	return file.Bytes()
}

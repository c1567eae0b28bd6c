#include "textflag.h"

// func Prefetch(mem []uint64, at []uint32, last int)
TEXT ·Prefetch(SB), NOSPLIT, $0-56
	MOVQ mem_base+0(FP), SI
	MOVQ at_base+24(FP), DI
	MOVQ at_len+32(FP), CX
	MOVQ last+48(FP), DX
	LEAQ (SI)(DX*8), DX
	LEAQ (DI)(CX*4), CX
	CMPQ DI, CX
	JGE  done

loop:
	MOVL (DI), AX
	ADDQ $4, DI
	PREFETCHT0 (SI)(AX*8)
	PREFETCHT0 (DX)(AX*8)
	CMPQ DI, CX
	JLT  loop

done:
	RET

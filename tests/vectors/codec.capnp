@0xd2c1b6f0a7e94831;
# A struct with every kind of field that the tunnel's schemas have, for comparing our codec with
# a foreign one. Size: 3 data words, 6 pointers.

struct Sample {
  small @0 :UInt8;             # byte 0
  flag @1 :Bool;               # bit 8
  otherFlag @2 :Bool;          # bit 9
  port @3 :UInt16;             # byte 2
  version @4 :Int32;           # byte 4
  wide @5 :UInt64;             # byte 8
  elapsed @6 :Int64;           # byte 16
  name @7 :Text;               # pointer 0
  content @8 :Data;            # pointer 1
  words @9 :List(Text);        # pointer 2
  child @10 :Sample;           # pointer 3
  children @11 :List(Sample);  # pointer 4
  anything @12 :AnyPointer;    # pointer 5
}

//! A strict parser of RFC 8259: one value, no surrounding white space, valid UTF-8.

/// The members of an object: its keys, and the text of each value.
pub type Members<'a> = Vec<(&'a str, &'a str)>;

/// More levels than any record has.
const MAX_DEPTH: usize = 80;

/// Parses a text that consists of one object.
pub fn object(text: &[u8]) -> Result<Members<'_>, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let mut reader = Reader { text, at: 0 };
    let mut members = Vec::new();
    reader.members(0, |key, value| members.push((key, value)))?;
    match reader.at == text.len() {
        true => Ok(members),
        false => Err(format!("more than an object, from byte {} on", reader.at)),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek();
        self.at += usize::from(byte.is_some());
        byte
    }

    fn expect(&mut self, wanted: u8) -> Result<(), String> {
        match self.next() {
            Some(byte) if byte == wanted => Ok(()),
            other => Err(format!("byte {}: {other:?} in the place of {:?}", self.at, char::from(wanted))),
        }
    }

    fn members(&mut self, depth: usize, mut each: impl FnMut(&'a str, &'a str)) -> Result<(), String> {
        self.expect(b'{')?;
        if self.peek() == Some(b'}') {
            return self.expect(b'}');
        }
        loop {
            let key = self.at;
            self.string()?;
            let key = &self.text[key + 1..self.at - 1];
            self.expect(b':')?;
            let value = self.at;
            self.value(depth + 1)?;
            each(key, &self.text[value..self.at]);
            if self.peek() == Some(b'}') {
                return self.expect(b'}');
            }
            self.expect(b',')?;
        }
    }

    fn elements(&mut self, depth: usize) -> Result<(), String> {
        self.expect(b'[')?;
        if self.peek() == Some(b']') {
            return self.expect(b']');
        }
        loop {
            self.value(depth + 1)?;
            if self.peek() == Some(b']') {
                return self.expect(b']');
            }
            self.expect(b',')?;
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("nested too deep".into());
        }
        match self.peek() {
            Some(b'{') => self.members(depth, |_, _| {}),
            Some(b'[') => self.elements(depth),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let words = ["null", "true", "false"];
                let word = words.iter().find(|word| self.text[self.at..].starts_with(**word));
                self.at += word.ok_or_else(|| format!("byte {}: no value", self.at))?.len();
                Ok(())
            }
        }
    }

    fn string(&mut self) -> Result<(), String> {
        self.expect(b'"')?;
        loop {
            match self.next() {
                Some(b'"') => return Ok(()),
                Some(b'\\') => match self.next() {
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                    Some(b'u') => {
                        for _ in 0..4 {
                            if !self.next().is_some_and(|digit| digit.is_ascii_hexdigit()) {
                                return Err(format!("byte {}: no hexadecimal digit", self.at));
                            }
                        }
                    }
                    _ => return Err(format!("byte {}: no such escape", self.at)),
                },
                Some(0x20..) => {}
                other => return Err(format!("byte {}: {other:?} in a string", self.at)),
            }
        }
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), String> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(format!("byte {start}: no digit")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_and_anything_else_is_not() {
        let text = r#"{"a":-0,"b":{"c":"\u00e9\"é","d":null},"e":1.5e+06,"f":true,"g":{},"h":[[],[1,"b"]]}"#;
        let members = object(text.as_bytes()).unwrap();
        let keys: Vec<_> = members.iter().map(|member| member.0).collect();
        assert_eq!((keys.concat(), members[2].1), ("abefgh".into(), "1.5e+06"));
        for wrong in [
            "",
            "1",
            "{",
            "{}{}",
            "{} ",
            " {}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":+1}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":1e}",
            "{\"a\":\"\n\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u00g0\"}",
            "{\"a\":NaN}",
            "{\"a\":[1,]}",
            "{\"a\":[1}",
            "{a:1}",
            "{\"a\":\"b}",
        ] {
            assert!(object(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
        assert!(object("{\"a\":".repeat(200).as_bytes()).is_err());
    }
}

use super::*;

fn fields(pairs: &[(&str, &str)]) -> Input {
    Input::Fields(pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
}

fn text(text: &str) -> Piece {
    Piece::Text(text.into())
}

fn message(result: Result<impl std::fmt::Debug, TextError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn virtual_tokens_stand_where_the_template_puts_them() {
    let format = PromptFormat::parse("<P*2>{context}<|P|>Q: {question}<P>").unwrap();
    assert_eq!(format.virtual_tokens(), 4);
    assert_eq!(format.fields(), ["context", "question"]);
    let pieces = format.fill(&fields(&[("context", "The oak"), ("question", "who?")])).unwrap();
    let v = || Piece::Virtual;
    assert_eq!(pieces, [v(), v(), text("The oak"), v(), text("Q: who?"), v()]);
    assert_eq!(format.template(), "<|P|><|P|>{context}<|P|>Q: {question}<|P|>");
}

#[test]
fn what_a_user_writes_becomes_neither_a_virtual_token_nor_a_field() {
    let format = PromptFormat::parse("<P>{text} {b}").unwrap();
    let pieces = format.fill(&fields(&[("text", "<|P|>{b}<P*9>"), ("b", "{text}}}")])).unwrap();
    assert_eq!(pieces, [Piece::Virtual, text("<|P|>{b}<P*9> {text}}}")]);
}

#[test]
fn plain_text_fills_the_text_field_or_follows_a_prefix() {
    let input = Input::Text("дуб".into());
    let format = PromptFormat::parse("<P>a {text} b").unwrap();
    assert_eq!(format.fill(&input).unwrap(), [Piece::Virtual, text("a дуб b")]);
    let prefix = PromptFormat::parse("<P*1>a").unwrap();
    assert_eq!(prefix.fill(&input).unwrap(), [Piece::Virtual, text("aдуб")]);
    assert_eq!(prefix.fill(&fields(&[("text", "дуб")])).unwrap(), [Piece::Virtual, text("aдуб")]);
}

#[test]
fn missing_and_extra_fields_are_named() {
    let format = PromptFormat::parse("{context}{question}").unwrap();
    let error = message(format.fill(&fields(&[("question", ""), ("title", ""), ("more", "")])));
    assert_eq!(
        error,
        "the input lacks `context` and the input has `more`, `title` too many: the prompt format takes `context`, `question`"
    );
    let error = message(format.fill(&Input::Text("x".into())));
    assert_eq!(error, "the input lacks `context`, `question`: the prompt format takes `context`, `question`");
    let error = message(PromptFormat::parse("p").unwrap().fill(&fields(&[("text", ""), ("b", "")])));
    assert_eq!(error, "the input has `b` too many: the prompt format takes plain text");
}

#[test]
fn doubled_braces_are_text() {
    let format = PromptFormat::parse("{{\"q\": \"{text}\"}}").unwrap();
    assert_eq!(format.fill(&Input::Text("a".into())).unwrap(), [text("{\"q\": \"a\"}")]);
    assert_eq!(format.template(), "{{\"q\": \"{text}\"}}");
}

#[test]
fn what_is_not_a_plain_field_is_refused() {
    for template in ["{", "}", "{a", "a}", "{}", "{0}", "{a.b}", "{a!r}", "{a:>9}", "{a{b}}", "{<P>}"] {
        assert!(message(PromptFormat::parse(template)).starts_with("prompt format: "), "{template}");
    }
    assert!(message(PromptFormat::parse("<P>some text</P>")).contains("tokenizer"));
    assert!(message(PromptFormat::parse("<P*70000>")).contains("65536"));
}
